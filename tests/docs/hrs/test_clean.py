from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.benchmarks.training.model_cache import ModelCache

FOLDER = Path(__file__).parents[3] / "docs" / "hrs"


def test_each_defense_is_measured_once_by_its_own_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models with another decision rule and repeated models are skipped; the file has the measured accuracies."""
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("clean", FOLDER / "clean.py")
    assert spec is not None and spec.loader is not None
    clean: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(clean)
    measured: list[str] = []

    def model(defense: str, accuracy: float) -> SimpleNamespace:
        def measure(defended: SimpleNamespace, images: int) -> tuple[float, int]:
            measured.append(defended.defense)
            return accuracy, images

        return SimpleNamespace(
            defended=lambda: SimpleNamespace(defense=defense), cache=SimpleNamespace(accuracy=measure)
        )

    models = [model("none", 0.9), model("hrs", 0.8), model("hrs(decision=deterministic)", 0.7), model("hrs", 0.1)]
    signature = inspect.signature(clean.plan)

    def planned(*positional: Any, **keywords: Any) -> SimpleNamespace:
        signature.bind(*positional, **keywords)
        assert isinstance(keywords["cache_for"]("digits", {}, 0), ModelCache)
        return SimpleNamespace(models=models)

    monkeypatch.setattr(clean, "plan", planned)
    monkeypatch.setattr(clean, "HERE", tmp_path)
    clean.main()
    assert measured == ["none", "hrs"]
    table = pd.read_csv(tmp_path / "clean.csv")
    assert table.to_dict("list") == {"defense": ["none", "hrs"], "clean_accuracy": [0.9, 0.8], "n": [10_000, 10_000]}
