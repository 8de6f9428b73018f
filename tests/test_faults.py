from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_no_fault_costs_more_than_time() -> None:
    """Each comes once: what was stored is still there, and every cell is there once, as it is when nobody disturbs it."""
    program = Path(__file__).with_name("faults.py")
    words = ("--kills", "4", "--processes", "2", "--images", "10", "--seeds", "1", "--pause", "0.5", "--times", "1")
    done = subprocess.run([sys.executable, program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [[word.strip() for word in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [(fault, times, cells) for fault, times, _, cells in rows] == [
        ("SIGKILL, 2 processes", "4", "20"),
        ("disk full", "1", "16"),
        ("store read-only", "1", "16"),
        ("slow file system, 2 processes", "1", "16"),
        ("clocks jump, 2 processes", "1", "16"),
        ("checkpoint changed under way", "1", "16"),
        ("worker hangs, --timeout", "1", "16"),
        ("bit flipped in a cell's file", "1", "16"),
        ("SIGINT, SIGTERM", "2", "32"),
    ]
