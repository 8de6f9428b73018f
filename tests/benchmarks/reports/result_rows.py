"""Rows of the table of results for the tests of its formats."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from robustbench_cli.benchmarks.reports.columns import COLUMNS

ROW: dict[str, Any] = {
    "dataset": "digits",
    "model": "small-cnn",
    "checkpoint": "a/none.safetensors",
    "defense": "none",
    "attack": "pgd",
    "norm": "linf",
    "eps": "8/255",
    "targeted": "no",
    "eot": "1",
    "n": 100,
    "repeats": 10,
    "seed": 0,
    "clean_accuracy": 0.938,
    "clean_accuracy_low": 0.8951,
    "clean_accuracy_high": 0.9623,
    "robust_accuracy": 0.2787,
    "robust_accuracy_low": 0.22,
    "robust_accuracy_high": 0.33,
    "robust_accuracy_vote": 0.22,
    "robust_accuracy_every_draw": 0.0,
    "attack_success_rate": 0.7,
    "mean_l2": 1.02,
    "flags": "",
    "forwards": 50_000,
    "backwards": 43_000,
    "eps_value": 8 / 255,
}


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """A table with the usual columns; each row is :data:`ROW` but for the given values."""
    usual = {entry.name: math.nan for entry in COLUMNS if entry.value is not None}
    return pd.DataFrame([usual | ROW | row for row in rows])


HRS = {
    "defense": "hrs",
    "robust_accuracy": 0.5,
    "robust_accuracy_low": 0.4,
    "robust_accuracy_high": 0.6,
    "checkpoint": "a/hrs.safetensors",
    "des": -0.5,
}
"""A second model, with a higher accuracy."""

NAMES = [
    "\x1b[31mred\x1b]0;title\x07",
    "a\rb",
    "a|b\nc",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "\u202egnp",
    "`a` **b** [c](http://d)",
    r"\input{/etc/passwd} & % $x$ #1 a_b ^2 ~ {} \\ --",
    "[x] ?` !` ``q'' \"a",
    "中文 é ł İ ŵ 🙂",
]
"""Hostile names."""
