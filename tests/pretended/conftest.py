"""Runs the parts of measure.py in processes of their own, each once in a run of the tests."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

Figures = dict[str, dict[str, Any]]
"""The figures of a part of measure.py, by attack and norm, by defense, or by scenario."""

TOGETHER = (
    ("steps", "forward"),
    ("attacks", "defenses", "interface", "training", "scenarios", "memory"),
    ("channels", "loading"),
)
"""The parts that one process measures: importing torch takes longer than most of them."""


@pytest.fixture(scope="session")
def figures_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Figures]:
    """Gives the figures of a part; the test processes of one run share them."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def figures(part: str) -> Figures:
        (parts,) = (parts for parts in TOGETHER if part in parts)
        path = folder / f"pretended-{parts[0]}.json"
        with path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.stat().st_size:
                file.write(measured(*parts))
                file.flush()
            file.seek(0)
            found: Figures = json.load(file)[part]
        return found

    return figures


def measured(*parts: str) -> str:
    """The figures of some parts as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.pretended.measure", *parts],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def passed(figures_of: Callable[[str], Figures]) -> Callable[[str, str], dict[str, Any]]:
    """Gives the figures of one case of a part, and fails with its error if it had one."""

    def case(part: str, name: str) -> dict[str, Any]:
        figures = figures_of(part)[name]
        assert "error" not in figures, figures["error"]
        return figures

    return case
