from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import pytest

from robustbench_cli.benchmarks.evaluation.options import GridOptions
from robustbench_cli.cli.commands.attack import attack
from robustbench_cli.cli.param_types import OneOf, Whole

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", GridOptions.model_fields)
def test_each_field_is_an_option_of_attack(name: str, advdef: Callable[..., Any]) -> None:
    """It has the field's choices, default, description and group; where the user gives none, its value is ``None``."""
    field: Any = GridOptions.model_fields[name]
    parameter: Any = next(parameter for parameter in attack.params if parameter.name == name)
    assert parameter.opts == [f"--{name.replace('_', '-')}"]
    assert parameter.default is None
    assert parameter.group == (field.json_schema_extra or {}).get("group", "Attack")
    assert field.description[1:] in parameter.help
    assert field.default is None or f"[default: {field.default}]" in parameter.help
    if get_origin(field.annotation) is Literal:
        assert isinstance(parameter.type, OneOf)
        assert tuple(parameter.type.choices) == get_args(field.annotation)
    page = advdef("attack", "--help").out
    group = page.partition(f"\n{parameter.group}")[2].partition("\n\n")[0]
    assert parameter.opts[0] in group


def test_a_number_has_the_range_of_its_field(advdef: Callable[..., Any]) -> None:
    """``repeats`` is a whole number of at least 1."""
    (repeats,) = (parameter for parameter in attack.params if parameter.name == "repeats")
    assert isinstance(repeats.type, click.IntRange | Whole)
    assert repeats.type.min == 1
    ended = advdef("attack", "--repeats", "0")
    assert (ended.code, ended.err) == (2, "advdef: error: --repeats: 0 is not in the range x>=1\n")


SUITE = "{n: 5, defenses: [none, {name: hrs, channels: [2, 1]}], attacks: [pgd, fgsm], eps: 0.1%s}"
CELLS = """
import json, sys, torch
from pathlib import Path
from robustbench_cli.benchmarks.execution.job import JobOptions
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.benchmarks.suites.plan import plan
from robustbench_cli.benchmarks.training.model_cache import ModelCache

def cache_for(dataset, recipe, seed):
    return ModelCache(dataset=dataset, data_dir=None, device=torch.device("cpu"), seed=seed, recipe=recipe)

options = JobOptions(store=Path("store"), data_dir=None, device="cpu", batch_size=None)
cells = {
    path: [job.cell.id for job in plan(read_suite(path), cache_for=cache_for, seed=0).expected_jobs(options)]
    for path in sys.argv[1:]
}
print(json.dumps(cells))
"""


def python(tree: Path, folder: Path, *arguments: str) -> str:
    """The output of Python with the modules of a tree."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_new_field_is_an_option_a_key_and_a_part_of_a_cell(tmp_path: Path) -> None:
    """One line in ``GridOptions`` suffices: two values give two cells, and cells at the default keep their ids."""
    tree = tmp_path / "tree"
    for folder in ("attacks", "benchmarks", "defenses", "robustbench_cli"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=ignored)
    file = tree / "benchmarks/evaluation/options.py"
    source = file.read_text(encoding="utf-8")
    before = "    @property\n    def is_targeted"
    assert source.count(before) == 1
    line = '    jitter: Literal["off", "low"] = Field("off", description="a made-up option")\n\n'
    file.write_text(source.replace(before, line + before), encoding="utf-8")
    (tmp_path / "usual.yaml").write_text(SUITE % "")
    (tmp_path / "default.yaml").write_text(SUITE % ", jitter: 'off'")
    (tmp_path / "both.yaml").write_text(SUITE % ", jitter: ['off', low]")

    page = python(tree, tmp_path, "-m", "robustbench_cli", "attack", "--help")
    assert "--jitter [off|low]" in page
    assert "A made-up option." in page
    (original,) = json.loads(python(ROOT, tmp_path, "-c", CELLS, "usual.yaml")).values()
    cells = json.loads(python(tree, tmp_path, "-c", CELLS, "usual.yaml", "default.yaml", "both.yaml"))
    assert cells["usual.yaml"] == cells["default.yaml"] == original
    assert len({*cells["both.yaml"]}) == 2 * len(original)
    assert {*original} < {*cells["both.yaml"]}
