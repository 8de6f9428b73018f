from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_kills_at_random_moments_cost_nothing_but_time() -> None:
    """Of processes that share a store: every cell is there once, and is what it is when nobody is killed."""
    program = Path(__file__).with_name("faults.py")
    words = ("--kills", "4", "--processes", "2", "--images", "10", "--seeds", "1", "--pause", "0.5")
    done = subprocess.run([sys.executable, program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 kills in 1 rounds of 2 processes: 30 cells, each there once and as undisturbed" in done.stdout
