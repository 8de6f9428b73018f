"""CONTRIBUTING.md shows an attack and a defense that work as they stand."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


def test_examples_work_as_a_users_own(
    advdef: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two classes, saved to files, attack and defend by `path.py:object`, with draws and without."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        name = re.findall(r'__all__ = \["(\w+)"\]', block)[0]
        (tmp_path / f"{name}.py").write_text(block, encoding="utf-8")
    ended = advdef(
        "attack",
        *("--defense", "MyDefense.py:MyDefense", "--set", "width=0.2"),
        *("--decision", "one-draw", "--decision", "deterministic"),
        *("--attack", "MyAttack.py:MyAttack", "--set", "MyAttack.py:MyAttack.steps=2", "--attack", "pgd"),
        *("--n", "50", "--epochs", "5", "-o", "table.csv"),
    )
    assert ended.code == 0, ended.err
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    attacks = ("MyAttack.py:MyAttack(steps=2)", "pgd", "worst-case")
    assert [row["attack"] for row in rows] == [*attacks, *attacks]
    assert [row["defense"] for row in rows[::3]] == [
        "MyDefense.py:MyDefense(width=0.2)",
        "MyDefense.py:MyDefense(decision=deterministic,width=0.2)",
    ]
    # Noise is scored over ten draws, and what draws nothing in one pass.
    assert [row["repeats"] for row in rows[::3]] == ["10", "1"]
