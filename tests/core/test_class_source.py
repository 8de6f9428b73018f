from __future__ import annotations

import sys
from pathlib import Path

import pytest

from robustbench_cli import attacks
from robustbench_cli.core.class_source import _tree, read_class, read_exported

SOURCE = """
import nothing_of_this_name
from robustbench_cli.attacks.made_up_base import Base as Parent
__all__ = ["Mine"]
class Mixin:
    access = "scores"
    rate = 1
class Mine(Mixin, Parent):
    '''Its summary.'''
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    rate: int = 2
    computed = len("abc")
def helper():
    '''A function.'''
"""
BASE = """
class Base:
    '''Not the docstring of what derives from it.'''
    access = "gradients"
    minimal_norm = True
    norms = ("linf",)
"""


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the project whose import would fail."""
    (tmp_path / "made_up.py").write_text(SOURCE)
    (tmp_path / "made_up_base.py").write_text(BASE)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "empty.py").write_text("")
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path)])
    _tree.cache_clear()
    return "robustbench_cli.attacks.made_up"


def test_the_exported_class_is_read_without_an_import(made_up: str) -> None:
    """Its docstring, its literal constants and those of its bases, the nearest first."""
    found = read_exported(made_up)
    assert found is not None
    assert found.docstring == "Its summary."
    assert found.constants == {"norms": ("l2",), "rate": 2, "access": "scores", "minimal_norm": True}
    assert made_up not in sys.modules


def test_functions_and_imported_names_are_read(made_up: str) -> None:
    """A function has a docstring; an imported class is read where it is defined."""
    function = read_class(made_up, "helper")
    imported = read_class(made_up, "Parent")
    assert function is not None
    assert imported is not None
    assert function.docstring == "A function."
    assert imported.constants["norms"] == ("linf",)


@pytest.mark.parametrize("module", ["broken", "empty", "absent"])
def test_what_cannot_be_read_is_none(made_up: str, module: str) -> None:
    """The caller then imports the module, which says what is wrong."""
    assert read_exported(f"robustbench_cli.attacks.{module}") is None


def test_only_the_projects_own_files_are_read(made_up: str) -> None:
    """Another package's source may do anything at import."""
    assert read_class("json", "JSONEncoder") is None
    assert read_class(made_up, "absent") is None
