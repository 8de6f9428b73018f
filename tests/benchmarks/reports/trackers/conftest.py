"""Runs of two models, the second one with hostile names."""

from __future__ import annotations

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports.trackers.tracked_run import TrackedRun, tracked_runs

from ..result_rows import HRS, NAMES, table

HOSTILE = " ".join(NAMES) + "../../x" + "y" * 10_000


@pytest.fixture
def rows() -> pd.DataFrame:
    """A model at two radii and at any distance; another one whose every text is hostile."""
    texts = dict.fromkeys(("dataset", "model", "defense", "checkpoint", "attack", "flags", "cell", "eot"), HOSTILE)
    far = {"eps": "16/255", "eps_value": 16 / 255, "robust_accuracy": 0.1, "flags": "no-eot;every-draw"}
    return table({}, far, {"eps": "", "eps_value": float("nan"), "robust_accuracy": 0.0}, HRS | texts)


@pytest.fixture
def runs(rows: pd.DataFrame) -> list[TrackedRun]:
    return tracked_runs(rows)
