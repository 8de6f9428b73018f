from __future__ import annotations

import itertools
from typing import Any

import pandas as pd

from robustbench_cli.benchmarks.reports.columns import column_names
from robustbench_cli.benchmarks.reports.curves import (
    decisive_rows,
    radius_curves,
)


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
