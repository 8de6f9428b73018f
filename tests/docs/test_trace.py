"""The way from the command line to PGD's loop stays short."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Project frames on the stack when the loop of PGD is entered, without the loop itself.
FRAMES = 12


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """What `python docs/trace.py` prints; here it runs in this process."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(sys, "argv", ["trace.py"])
        runpy.run_path(str(ROOT / "docs/trace.py"), run_name="__main__")
    return output.getvalue().splitlines()


def test_the_way_to_the_loop_is_short(lines: list[str]) -> None:
    """The stack begins at the command line, ends in PGD, and holds few frames."""
    *stack, frames, entered = lines
    assert stack[0].split() == ["1", "robustbench_cli/cli/main.py:main"]
    assert stack[-1].split() == [str(len(stack)), "attacks/pgd.py:PGD.run"]
    assert frames == f"{len(stack) - 1} frames before the loop"
    assert len(stack) - 1 <= FRAMES
    assert re.fullmatch(r"\d+ functions in \d+ files entered before it", entered)


def test_the_way_goes_down_the_floors(lines: list[str]) -> None:
    """No frame lies on a higher floor than one before it."""
    floors = {"robustbench_cli": 3, "benchmarks": 2, "defenses": 1, "attacks": 0}
    stack = [line.split()[1] for line in lines[:-2]]
    heights = [floors[name.partition("/")[0]] for name in stack]
    assert heights == sorted(heights, reverse=True)
