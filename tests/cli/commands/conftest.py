"""A folder to run commands in, and what they need there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from platformdirs import user_cache_path

from tests.forked import fork_workers

TINY = ("--epochs", "8", "--n", "40")
"""A network of a second and images enough to count."""

FAST = ("--attack", "fgsm", *TINY)

Advdef = Callable[..., Any]


def error_line(ended: Any) -> str:
    """The error line of a command that ended with exit code 2 and nothing on stdout."""
    assert ended.code == 2, ended
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert lines[-1].startswith("advdef: error: ")
    assert not [line for line in lines[:-1] if not line.startswith(("training ", "block "))]
    return str(lines[-1].removeprefix("advdef: error: "))


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks the processes of ``--jobs``."""
    fork_workers(monkeypatch)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run commands in."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkpoint(here: Path, advdef: Callable[..., Any]) -> Path:
    """The file ``model.safetensors``: a network that has learned a little; trained once for all tests."""
    kept = user_cache_path("advdef") / "tests" / "model.safetensors"
    if not kept.exists():
        assert advdef("train", "--epochs", "8", "-o", str(kept), "-q").code == 0
    return Path(shutil.copy(kept, here / kept.name))
