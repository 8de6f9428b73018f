"""What every test runs with: nothing of the person's own settings, no writing outside the test's folder."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Read by torch when it is imported: more threads slow small networks down, and the tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Keeps the collected tests out of the garbage collector, which would pass over thousands of them again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Gives them back, since libraries complain of objects that are left at the end."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Takes the person's settings away and gives each test run a cache folder of its own."""
    for name in [*os.environ]:
        if name.startswith("ADVDEF_") or name in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@dataclass(frozen=True)
class Ended:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def advdef(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs the command line in this process."""
    from robustbench_cli.cli.main import main

    def run(*words: str) -> Ended:
        capfd.readouterr()
        code = main(words)
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return run


@pytest.fixture
def advdef_process(tmp_path: Path) -> Callable[..., Ended]:
    """Runs the command line in a process of its own, in an empty folder."""

    def run(*words: str, **environment: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "robustbench_cli", *words],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run
