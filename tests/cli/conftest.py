"""Commands made up for a test."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.store.cell import Cell
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


CODE = """
import json, click
from robustbench_cli.cli import console
from robustbench_cli.cli.options import command, computing
from robustbench_cli.cli.param_types import EOT_TYPE, EPS, SETTING
@command("compute")
@click.option("--eps", type=EPS, multiple=True)
@click.option("--eot", type=EOT_TYPE)
@click.option("--set", "settings", type=SETTING, multiple=True)
@click.option("--model", multiple=True)
@click.option("--strict", is_flag=True)
@click.option("-o", "--output")
@computing
def compute(common, eps, **rest):
    got = {"eps": [[each.text, each.value] for each in eps], **rest, **vars(common)}
    console.report(json.dumps(got, default=str))
"""
DEFAULTS: dict[str, object] = {
    "eps": [],
    "eot": None,
    "settings": [],
    "model": [],
    "strict": False,
    "output": None,
    "store": "advdef-runs",
    "device": "auto",
    "seed": 0,
    "data_dir": None,
    "batch_size": None,
}


@pytest.fixture
def compute(advdef: Callable[..., Any], add_command: Callable[[str, str], Path]) -> Callable[..., Any]:
    """Runs a command with every kind of option."""
    add_command("compute", CODE)
    return lambda *words: advdef("compute", *words)


def changed(ended: Any) -> dict[str, Any]:
    """The options of a run that are not at their defaults."""
    assert (ended.code, ended.err) == (0, "")
    got = json.loads(ended.out)
    assert got.keys() == DEFAULTS.keys()
    return {key: value for key, value in got.items() if value != DEFAULTS[key]}


def small_cell(**changes: Any) -> Cell:
    """A cell of PGD on four digits."""
    usual: dict[str, Any] = {
        "dataset": "digits",
        "data": "d" * 64,
        "n": 4,
        "model": "small-cnn",
        "checkpoint": "c" * 64,
        "defenses": (),
        "attack": MethodSpec(name="pgd", parameters={"steps": 40}),
        "norm": "linf",
        "eps": 0.1,
        "targeted": "no",
        "eot": 1,
        "repeats": 1,
        "seed": 0,
    }
    return Cell(**usual | changes)
