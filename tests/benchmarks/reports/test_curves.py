from __future__ import annotations

import itertools
import random
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports.columns import column_names
from robustbench_cli.benchmarks.reports.curves import (
    decisive_rows,
    front_line,
    pareto_front,
    radius_curves,
    trade_offs,
)
from robustbench_cli.benchmarks.reports.html.charts import trade_off_chart


def table_of(*rows: dict[str, Any]) -> pd.DataFrame:
    """A table of rows, of which a test says what matters."""
    usual: dict[str, Any] = dict.fromkeys(column_names()) | {
        "dataset": "digits",
        "model": "small-cnn",
        "checkpoint": "a.safetensors",
        "checkpoint_sha256": "a" * 64,
        "defense": "none",
        "attack": "pgd",
        "norm": "linf",
        "eps": "0.1",
        "eps_value": 0.1,
        "targeted": "no",
        "n": 100,
        "repeats": 1,
        "seed": 0,
        "clean_accuracy": 0.9,
        "clean_accuracy_low": 0.8,
        "clean_accuracy_high": 0.95,
        "robust_accuracy": 0.5,
        "robust_accuracy_low": 0.4,
        "robust_accuracy_high": 0.6,
        "accounting": "expected",
    }
    return pd.DataFrame([usual | row for row in rows], columns=column_names())


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_point_dominates(seed: int) -> None:
    """Against the definition, pair by pair, with equal points and equal coordinates among them."""
    rng = random.Random(seed)
    points = [(rng.randint(0, 5) / 5, rng.randint(0, 5) / 5) for _ in range(12)]
    right = [not any(a >= x and b >= y and (a > x or b > y) for a, b in points) for x, y in points]
    assert pareto_front(points) == right
    assert pareto_front([]) == []


def test_the_worst_case_decides_and_else_the_strongest_attack() -> None:
    """Whatever the order of the rows; a row without an attack or a radius, and a mean over corruptions, are none."""
    of_two = [{"robust_accuracy": 0.5}, {"attack": "cw-pgd", "robust_accuracy": 0.3}]
    worst = {"attack": "worst-case", "robust_accuracy": 0.4}
    others = [{"attack": "none"}, {"eps": "", "eps_value": None}, {"mean_corruption_accuracy": 0.5}]
    for rows in itertools.permutations([*of_two, worst]):
        assert [row["attack"] for row in decisive_rows(table_of(*rows, *others))] == ["worst-case"]
    assert [row["attack"] for row in decisive_rows(table_of(*of_two, *others))] == ["cw-pgd"]
    assert decisive_rows(table_of(*others)) == decisive_rows(table_of()) == []


def test_a_curve_begins_with_the_clean_accuracy() -> None:
    """Radii rise, however the rows are sorted, and the estimates are those of the rows."""
    rows = [
        {"eps": "8/255", "eps_value": 8 / 255, "robust_accuracy": 0.2, "robust_accuracy_low": 0.1},
        {"eps": "2/255", "eps_value": 2 / 255, "robust_accuracy": 0.7},
        {"eps": "2/255", "eps_value": 2 / 255, "norm": "l2"},
    ]
    (curve,) = radius_curves(table_of(*rows))
    assert (curve.label, curve.setting, curve.norm) == ("none", "digits, 100 images", "linf")
    assert curve.eps == (0.0, 2 / 255, 8 / 255)
    assert curve.eps_text == ("0", "2/255", "8/255")
    assert [point.value for point in curve.accuracy] == [0.9, 0.7, 0.2]
    assert (curve.accuracy[0].low, curve.accuracy[2].low) == (0.8, 0.1)


def test_models_of_one_threat_are_in_one_chart() -> None:
    """Another data set, norm or radius is another chart."""
    rows = [
        {},
        {"defense": "trades", "checkpoint_sha256": "b" * 64, "clean_accuracy": 0.8, "robust_accuracy": 0.6},
        {"defense": "jpeg", "clean_accuracy": 0.7, "robust_accuracy": 0.5, "clean_accuracy_high": 0.75},
        {"eps": "0.2", "eps_value": 0.2},
        {"dataset": "mnist"},
    ]
    first, larger, mnist = trade_offs(table_of(*rows))
    assert [(point.label, point.on_front) for point in first.points] == [
        ("none", True),
        ("trades", True),
        ("jpeg", False),
    ]
    assert (first.threat, larger.threat, mnist.setting) == ("linf 0.1", "linf 0.2", "mnist, 100 images")


def test_a_model_with_flags_is_not_on_the_front() -> None:
    """It keeps no honest model from the front, and its legend says why; a chart may have no front at all."""
    broken = {"defense": "jpeg", "checkpoint_sha256": "b" * 64, "robust_accuracy": 0.9, "flags": "zero-gradient"}
    (chart,) = trade_offs(table_of({"flags": ""}, broken))
    assert [point.on_front for point in chart.points] == [True, False]
    assert [point.doubt_line for point in chart.points] == ["", "jpeg: not on the front, flag zero-gradient"]
    (chart,) = trade_offs(table_of(broken, broken | {"defense": "sap", "checkpoint_sha256": "c" * 64}))
    assert not any(point.on_front for point in chart.points)
    assert "zero-gradient" in trade_off_chart("p0", chart)


def test_a_difference_within_the_intervals_keeps_no_model_from_the_front() -> None:
    """82.5 [63, 93] beside 85.0 [64, 95]: both are on it, and its line goes through the better one."""
    usual = {"clean_accuracy": 1.0, "clean_accuracy_low": 0.84, "clean_accuracy_high": 1.0}
    first = usual | {"robust_accuracy": 0.825, "robust_accuracy_low": 0.63, "robust_accuracy_high": 0.93}
    second = usual | {"robust_accuracy": 0.85, "robust_accuracy_low": 0.64, "robust_accuracy_high": 0.95}
    (chart,) = trade_offs(table_of(first, second | {"defense": "hrs", "checkpoint_sha256": "b" * 64}))
    assert [point.on_front for point in chart.points] == [True, True]
    assert front_line(chart) == [(1.0, 0.85)]


def test_a_model_whose_audit_says_broken_is_not_on_the_front() -> None:
    """Without a flag on its row too; a suspicious one stays."""
    higher = {"robust_accuracy": 0.9, "robust_accuracy_low": 0.8, "robust_accuracy_high": 0.95}
    other = {"defense": "jpeg", "checkpoint_sha256": "b" * 64} | higher
    key = "b" * 64, "digits", "", "linf"
    (chart,) = trade_offs(table_of({}, other), {key: ("broken", "above-chance: at eps 0.2")})
    assert [point.on_front for point in chart.points] == [True, False]
    assert chart.points[1].doubt_line == "jpeg: not on the front, verdict broken (above-chance)"
    (chart,) = trade_offs(table_of({}, other), {key: ("suspicious", "")})
    assert [point.on_front for point in chart.points] == [False, True]
