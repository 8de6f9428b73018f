from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports.best_values import best_values
from robustbench_cli.benchmarks.reports.columns import column

COLUMNS = [column(name) for name in ("defense", "clean_accuracy", "robust_accuracy", "attack_success_rate", "des")]


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    common = {
        "dataset": "digits",
        "model": "small-cnn",
        "checkpoint": "a",
        "attack": "pgd",
        "norm": "linf",
        "eps": "0.1",
        "targeted": "no",
        "n": 1000,
        "flags": "",
        "clean_accuracy": 0.9,
        "robust_accuracy": 0.5,
        "attack_success_rate": 0.4,
        "des": math.nan,
    }
    return pd.DataFrame([common | row for row in rows])


def test_the_best_of_an_attack_and_a_threat() -> None:
    """The highest accuracy and the lowest success among the rows of one attack at one radius; ties are all best."""
    best = best_values(
        table(
            {"defense": "none", "robust_accuracy": 0.5, "attack_success_rate": 0.4},
            {"defense": "hrs", "robust_accuracy": 0.6, "attack_success_rate": 0.3, "des": 2.0},
            {"defense": "rse", "robust_accuracy": 0.6, "attack_success_rate": 0.35, "des": -1.0},
            {"defense": "none", "attack": "fgsm", "robust_accuracy": 0.8},
            {"defense": "hrs", "eps": "0.2", "robust_accuracy": 0.9},
        ),
        COLUMNS,
    )
    both = {"robust_accuracy", "attack_success_rate"}
    assert best == [set(), both | {"des"}, both, set(), set()]


def test_what_is_not_compared() -> None:
    """Rows with flags, a model with itself, and accuracies at any distance."""
    flagged = table({"defense": "none"}, {"defense": "hrs", "robust_accuracy": 0.9, "flags": "no-eot"})
    assert best_values(flagged, COLUMNS) == [set(), set()]
    assert best_values(table({"defense": "none"}, {"defense": "none", "robust_accuracy": 0.9}), COLUMNS) == [
        set(),
        set(),
    ]
    far = table(
        {"defense": "none", "eps": ""}, {"defense": "hrs", "eps": "", "robust_accuracy": 0.9, "clean_accuracy": 1}
    )
    assert best_values(far, COLUMNS) == [set(), {"clean_accuracy"}]


def test_intervals_that_overlap_are_not_told_apart() -> None:
    """A model that is clearly worse has no mark; where nobody is, nobody has one."""
    rows = [
        {
            "defense": name,
            "robust_accuracy": value,
            "robust_accuracy_low": value - 0.1,
            "robust_accuracy_high": value + 0.1,
        }
        for name, value in (("none", 0.3), ("hrs", 0.55), ("rse", 0.6))
    ]
    columns = [column("robust_accuracy")]
    assert best_values(table(*rows), columns) == [set(), {"robust_accuracy"}, {"robust_accuracy"}]
    assert best_values(table(*rows[1:]), columns) == [set(), set()]


@pytest.mark.parametrize(("n", "marked"), [(20, False), (1000, True)])
def test_every_accuracy_has_an_interval(n: int, marked: bool) -> None:
    """Success and accuracies over draws, which have none in the table, and the score, which has one: 20 images tell too little."""
    half = 30 / math.sqrt(n)
    rows = [
        {
            "defense": name,
            "n": n,
            "clean_accuracy": 1.0,
            "attack_success_rate": 1 - share,
            "robust_accuracy_every_draw": share,
            "robust_accuracy_vote": share,
            "des": 10 * share,
            "des_low": 10 * share - half,
            "des_high": 10 * share + half,
        }
        for name, share in (("none", 0.55), ("hrs", 0.85))
    ]
    names = ("attack_success_rate", "robust_accuracy_every_draw", "robust_accuracy_vote", "des")
    best = best_values(table(*rows), [column(name) for name in names])
    assert best == [set(), {*names} if marked else set()]


def test_a_score_without_a_loss_is_neither_shown_nor_the_best() -> None:
    """Prevented points over a loss that may be nothing: the highest number of all is no figure."""
    rows = table(
        {"defense": "a", "des": 2.0, "clean_accuracy_loss_within_interval": False},
        {"defense": "b", "des": 1.0, "clean_accuracy_loss_within_interval": False},
        {"defense": "c", "des": -250.0, "clean_accuracy_loss_within_interval": True},
        {"defense": "d", "des": 500.0, "clean_accuracy_loss_within_interval": True},
    )
    assert best_values(rows, [column("des")]) == [{"des"}, set(), set(), set()]
    assert [column("des").text(row) for row in rows.to_dict(orient="records")] == ["2.0", "1.0", "~", "~"]
