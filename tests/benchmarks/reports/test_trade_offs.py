from __future__ import annotations

import random
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports.html.charts import trade_off_chart
from robustbench_cli.benchmarks.reports.trade_offs import front_steps, pareto_front, size_trade_offs, trade_offs

from .result_rows import table

USUAL: dict[str, Any] = {
    "checkpoint_sha256": "a" * 64,
    "eps": "0.1",
    "eps_value": 0.1,
    "clean_accuracy": 0.9,
    "clean_accuracy_low": 0.8,
    "clean_accuracy_high": 0.95,
    "robust_accuracy": 0.5,
    "robust_accuracy_low": 0.4,
    "robust_accuracy_high": 0.6,
}


def rows_of(*rows: dict[str, Any]) -> pd.DataFrame:
    """A table of rows, of which a test says what matters."""
    return table(*(USUAL | row for row in rows))


def sized(name: str, parameters: int, nonzero: int | None, robust: float) -> dict[str, Any]:
    """A model with sizes, whose accuracy has a narrow interval."""
    return {
        "defense": name,
        "checkpoint_sha256": name * 64,
        "parameters": parameters,
        "nonzero": nonzero,
        "robust_accuracy": robust,
        "robust_accuracy_low": robust - 0.01,
        "robust_accuracy_high": robust + 0.01,
    }


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_point_dominates(seed: int) -> None:
    """Against the definition, pair by pair, with equal points and equal coordinates among them."""
    rng = random.Random(seed)
    points = [(rng.randint(0, 5) / 5, rng.randint(0, 5) / 5) for _ in range(12)]
    right = [not any(a >= x and b >= y and (a > x or b > y) for a, b in points) for x, y in points]
    assert pareto_front(points) == right
    assert pareto_front([]) == []


def test_models_of_one_threat_are_in_one_chart() -> None:
    """Another data set, norm or radius is another chart."""
    rows = [
        {},
        {"defense": "trades", "checkpoint_sha256": "b" * 64, "clean_accuracy": 0.8, "robust_accuracy": 0.6},
        {"defense": "jpeg", "clean_accuracy": 0.7, "robust_accuracy": 0.5, "clean_accuracy_high": 0.75},
        {"eps": "0.2", "eps_value": 0.2},
        {"dataset": "mnist"},
    ]
    first, larger, mnist = trade_offs(rows_of(*rows))
    assert [(point.label, point.on_front) for point in first.points] == [
        ("none", True),
        ("trades", True),
        ("jpeg", False),
    ]
    assert (first.threat, larger.threat, mnist.setting) == ("linf 0.1", "linf 0.2", "mnist, 100 images")


def test_a_model_with_flags_is_not_on_the_front() -> None:
    """It keeps no honest model from the front, and its legend says why; a chart may have no front at all."""
    broken = {"defense": "jpeg", "checkpoint_sha256": "b" * 64, "robust_accuracy": 0.9, "flags": "zero-gradient"}
    (chart,) = trade_offs(rows_of({"flags": ""}, broken))
    assert [point.on_front for point in chart.points] == [True, False]
    assert [point.doubt_line for point in chart.points] == ["", "jpeg: not on the front, flag zero-gradient"]
    (chart,) = trade_offs(rows_of(broken, broken | {"defense": "sap", "checkpoint_sha256": "c" * 64}))
    assert not any(point.on_front for point in chart.points)
    assert "zero-gradient" in trade_off_chart("p0", chart)


def test_a_difference_within_the_intervals_keeps_no_model_from_the_front() -> None:
    """82.5 [63, 93] beside 85.0 [64, 95]: both are on it, and its line goes through the better one."""
    usual = {"clean_accuracy": 1.0, "clean_accuracy_low": 0.84, "clean_accuracy_high": 1.0}
    first = usual | {"robust_accuracy": 0.825, "robust_accuracy_low": 0.63, "robust_accuracy_high": 0.93}
    second = usual | {"robust_accuracy": 0.85, "robust_accuracy_low": 0.64, "robust_accuracy_high": 0.95}
    (chart,) = trade_offs(rows_of(first, second | {"defense": "hrs", "checkpoint_sha256": "b" * 64}))
    assert [point.on_front for point in chart.points] == [True, True]
    assert front_steps(chart) == [(1.0, 0.85)]


def test_a_model_whose_audit_says_broken_is_not_on_the_front() -> None:
    """Without a flag on its row too; a suspicious one stays."""
    higher = {"robust_accuracy": 0.9, "robust_accuracy_low": 0.8, "robust_accuracy_high": 0.95}
    other = {"defense": "jpeg", "checkpoint_sha256": "b" * 64} | higher
    key = "b" * 64, "digits", "", "linf"
    (chart,) = trade_offs(rows_of({}, other), {key: ("broken", "above-chance: at eps 0.2")})
    assert [point.on_front for point in chart.points] == [True, False]
    assert chart.points[1].doubt_line == "jpeg: not on the front, verdict broken (above-chance)"
    (chart,) = trade_offs(rows_of({}, other), {key: ("suspicious", "")})
    assert [point.on_front for point in chart.points] == [False, True]


def test_small_and_robust_is_better() -> None:
    """A model that another one exceeds in both is below the front, whose line falls to the left of each larger model."""
    models = [sized("a", 100, 10, 0.3), sized("b", 400, 400, 0.5), sized("c", 200, 200, 0.2), sized("d", 400, 40, 0.4)]
    parameters, nonzero = size_trade_offs(rows_of(*models))
    assert (parameters.against, nonzero.against) == ("parameters", "nonzero")
    assert [point.on_front for point in parameters.points] == [True, True, False, False]
    assert [point.on_front for point in nonzero.points] == [True, True, False, True]
    assert front_steps(parameters) == [(100, 0.3), (400, 0.3), (400, 0.5)]
    assert front_steps(nonzero) == [(10, 0.3), (40, 0.3), (40, 0.4), (400, 0.4), (400, 0.5)]
    assert [point.across.value for point in parameters.points] == [100, 400, 200, 400]


def test_a_size_that_says_nothing_has_no_chart() -> None:
    """One that all models share, one that equals another, and one that is missing; a model without one is left out."""
    assert size_trade_offs(rows_of(sized("a", 100, 100, 0.3), sized("b", 100, 100, 0.5))) == []
    assert size_trade_offs(rows_of({}, {"defense": "hrs", "checkpoint_sha256": "b" * 64})) == []
    (chart,) = size_trade_offs(rows_of(sized("a", 100, 100, 0.3), sized("b", 200, 200, 0.5), {"defense": "none"}))
    assert chart.against == "parameters"
    assert [point.label for point in chart.points] == ["a", "b"]
    drawn = trade_off_chart("p0", chart)
    assert "Parameters against robust accuracy" in drawn
    assert ">100<" in drawn and ">200<" in drawn
