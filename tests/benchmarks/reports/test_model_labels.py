from __future__ import annotations

from typing import Any

from robustbench_cli.benchmarks.reports.model_labels import model_labels


def rows_of(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows, of which a test says what matters."""
    usual = {"model": "small-cnn", "mean": None, "std": None, "seed": 0, "accounting": "expected", "repeats": 1}
    usual |= {"defense": "none", "checkpoint": "a.safetensors", "checkpoint_sha256": "a" * 64}
    return [usual | row for row in changes]


def test_labels_tell_models_apart() -> None:
    """By what differs, and at last by the checkpoint's hash."""
    rows = rows_of({}, {"defense": "hrs"})
    assert model_labels(rows) == ["none", "hrs"]
    rows = rows_of({"seed": 0}, {"seed": 1})
    assert model_labels(rows) == ["none, seed 0", "none, seed 1"]
    rows = rows_of({"mean": ""}, {"mean": "0.5"})
    assert model_labels(rows) == ["none, no mean", "none, mean 0.5"]
    rows = rows_of({}, {"checkpoint": "b.safetensors", "checkpoint_sha256": "b" * 64})
    assert model_labels(rows) == ["none, a.safetensors", "none, b.safetensors"]
    rows = rows_of({}, {"checkpoint_sha256": "b" * 64})
    assert model_labels(rows) == [f"none, {'a' * 8}", f"none, {'b' * 8}"]
