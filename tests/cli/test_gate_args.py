from __future__ import annotations

import csv
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.cli import console
from robustbench_cli.cli.exit_codes import CellsFailed, GateFailed
from robustbench_cli.cli.gate_args import GateArgs, Unfinished

NO_LIMITS: dict[str, tuple[str, ...]] = {"fail_under": (), "fail_over": (), "max_drop": (), "max_rise": ()}

ROW = {"dataset": "digits", "model": "small-cnn", "defense": "none", "attack": "pgd", "norm": "linf", "eps": "0.1"}
"""The names of a row in messages; the limits here judge only columns that every model has."""


def table(*accuracies: float) -> pd.DataFrame:
    return pd.DataFrame([ROW | {"robust_accuracy": accuracy} for accuracy in accuracies])


def test_every_row_is_judged_unrounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit passes, a billionth below fails and is named, and a missing figure cannot be judged."""
    gates = GateArgs.from_options(baseline=None, strict=False, **NO_LIMITS | {"fail_under": ("robust_accuracy=0.4",)})
    passed: list[str] = []
    monkeypatch.setattr(console, "note", passed.append)
    gates.judged(table(0.4, 0.5)).finish()
    assert passed == ["passed: --fail-under robust_accuracy=0.4"]
    with pytest.raises(
        GateFailed, match=r"^digits small-cnn none pgd linf eps 0\.1: robust_accuracy 0\.4 is below 0\.4$"
    ):
        gates.judged(table(0.5, 0.4 - 1e-9)).finish()
    with pytest.raises(CellsFailed, match=r"there is no robust_accuracy to judge; .* is below 0\.4"):
        gates.judged(table(float("nan"), 0.1)).finish()


def test_rows_at_any_distance_are_counted_in_one_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two gates leave out the same row; without another row there is nothing to judge."""
    limits = {"fail_under": ("robust_accuracy=0.4",), "fail_over": ("attack_success_rate=0.6",)}
    gates = GateArgs.from_options(baseline=None, strict=False, **NO_LIMITS | limits)
    rows = table(0.5, 0.0).assign(eps=["0.1", ""], attack=["pgd", "cw"], attack_success_rate=[0.5, 1.0])
    notes: list[str] = []
    monkeypatch.setattr(console, "note", notes.append)
    gates.judged(rows).finish()
    assert [line.partition(":")[0] for line in notes] == ["1 row at any distance left out of gates", "passed"]
    with pytest.raises(CellsFailed, match="attack_success_rate: there is no row with a radius to judge"):
        gates.judged(rows.iloc[1:]).finish()


def test_missing_rows_end_a_command_without_gates_too() -> None:
    """With exit code 3; without any, nothing is judged."""
    gates = GateArgs.from_options(baseline=None, strict=False, **NO_LIMITS)
    gates.judged(table(0.0)).finish()
    with pytest.raises(CellsFailed, match=r"^one is missing$"):
        gates.judged(table(0.0), unfinished=Unfinished(["one is missing"])).finish()


def test_an_attack_is_gated_by_the_command_that_runs_it(
    advdef: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 after the table, 0 at the limit, and 2 before anything is computed."""
    monkeypatch.chdir(tmp_path)
    attack = ("attack", "--attack", "fgsm", "--epochs", "1", "--n", "20", "--eps", "0.1", "--store", "runs")
    refused = advdef(*attack, "--fail-under", "robust=0.4")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("advdef: error: --fail-under 'robust=0.4': unknown column 'robust': did you mean")
    assert not Path("runs").exists()
    assert advdef(*attack, "-o", "now.csv").code == 0
    (row,) = csv.DictReader(StringIO(Path("now.csv").read_text()))
    accuracy = float(row["robust_accuracy"])
    failed = advdef(*attack, "--fail-under", f"robust_accuracy={accuracy + 0.01!r}")
    assert failed.code == 1
    assert "fgsm" in failed.out
    assert failed.err.endswith(f"robust_accuracy {accuracy:.6g} is below {accuracy + 0.01:g}\n")
    passed = advdef(*attack, "--fail-under", f"robust_accuracy={accuracy!r}")
    assert (passed.code, passed.err.splitlines()[-1]) == (0, f"passed: --fail-under robust_accuracy={accuracy!r}")
    better = row | {"robust_accuracy": str(accuracy + 0.1)}
    Path("past.csv").write_text(f"{','.join(better)}\n{','.join(better.values())}\n")
    assert advdef(*attack, "--baseline", "past.csv", "--max-drop", "robust_accuracy=0.05").code == 1
    assert advdef(*attack, "--baseline", "past.csv", "--max-drop", "robust_accuracy=0.15").code == 0
