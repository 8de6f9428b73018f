"""The Python interface: `import advdef` and `import robustbench_cli` offer the same names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import advdef
import robustbench_cli
from robustbench_cli import _exports
from robustbench_cli.attacks import registry as attacks
from robustbench_cli.defenses import registry as defenses


@pytest.mark.parametrize("name", sorted(_exports()))
def test_every_exported_name_is_the_object_of_its_module(name: str) -> None:
    """A name that the package offers is the object of that name in its module, under both of its names."""
    assert name in dir(robustbench_cli)
    assert name in dir(advdef)
    assert getattr(robustbench_cli, name).__name__ == name
    assert getattr(advdef, name) is getattr(robustbench_cli, name)


@pytest.mark.parametrize(
    "kind", [*(attacks.load(name) for name in attacks.names()), *(defenses.load(name) for name in defenses.names())]
)
def test_every_attack_and_defense_has_its_name(kind: type) -> None:
    """The class that the command line finds by its file is an attribute by its own name."""
    assert getattr(advdef, kind.__name__) is kind


def test_type_checkers_see_the_names_that_exist() -> None:
    """The imports for type checkers are the names that a running program finds."""
    source = Path(robustbench_cli.__file__).read_text(encoding="utf-8")
    declared = {
        line[0] for line in re.finditer(r"from robustbench_cli\S* import (\w+) as \1$", source, flags=re.MULTILINE)
    }
    needed = set()
    for name, location in _exports().items():
        module, _, attribute = location.partition(":")
        needed.add(f"from {module} import {attribute} as {name}")
    assert not needed - declared, f"add to robustbench_cli/__init__.py: {sorted(needed - declared)}"
    assert not declared - needed, f"remove from robustbench_cli/__init__.py: {sorted(declared - needed)}"


def test_other_names_are_refused_as_by_any_module() -> None:
    """A name that is not offered is an AttributeError, so that hasattr and import behave."""
    assert not hasattr(robustbench_cli, "PDG")
    assert not hasattr(advdef, "PDG")
    with pytest.raises(ImportError, match="PDG"):
        exec("from advdef import PDG")
    for name, meant in (("PDG", "PGD"), ("load_data", "load_dataset"), ("HSR", "HRS"), ("pgd", "PGD")):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}': did you mean '{meant}'"):
            getattr(advdef, name)


@pytest.mark.parametrize("module", ["advdef", "robustbench_cli"])
def test_the_modules_run_as_the_command(module: str, tmp_path: Path) -> None:
    """`python -m advdef --help` is `advdef --help`, and calls itself advdef."""
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.lstrip().startswith("Usage: advdef [")
