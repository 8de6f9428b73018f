"""Commands made up for a test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from robustbench_cli.cli import commands


@pytest.fixture
def add_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Writes a file ``NAME.py`` that is found as if it lay in ``robustbench_cli/commands``."""
    folder = tmp_path / "more_commands"
    folder.mkdir()
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(folder)])
    added: list[str] = []

    def add(name: str, code: str) -> Path:
        (folder / f"{name}.py").write_text(dedent(code))
        added.append(name)
        return folder

    yield add
    for name in added:
        sys.modules.pop(f"{commands.__name__}.{name}", None)
        if hasattr(commands, name):
            delattr(commands, name)
