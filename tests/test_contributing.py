"""CONTRIBUTING.md shows an attack and a defense that work as they stand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


def test_examples_work_as_a_users_own(
    advdef: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two classes, saved to files, attack and defend by `path.py:object`."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        name = re.findall(r'__all__ = \["(\w+)"\]', block)[0]
        (tmp_path / f"{name}.py").write_text(block, encoding="utf-8")
    ended = advdef(
        "attack",
        *("--defense", "MyDefense.py:MyDefense", "--set", "width=0.2"),
        *("--attack", "MyAttack.py:MyAttack", "--set", "MyAttack.py:MyAttack.steps=2", "--attack", "pgd"),
        *("--n", "50", "--epochs", "5", "-o", "table.csv"),
    )
    assert ended.code == 0, ended.err
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert len(lines) == 4  # the header, the two attacks and their worst case
    assert "MyAttack.py:MyAttack(steps=2)" in lines[1]
    assert "MyDefense.py:MyDefense(width=0.2)" in lines[1]
