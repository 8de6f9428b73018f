"""A benchmark of evaluations: defenses that are broken in one known way each, and honest models beside them.

A file of ``broken/`` is one defense, and a file of ``honest/`` one model; the name of the file is its name.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from robustbench_cli.benchmarks.comparison.gallery import broken as broken_folder
from robustbench_cli.benchmarks.comparison.gallery import honest as honest_folder
from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense
from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import HonestModel

__all__ = ["broken_defenses", "honest_models"]


@cache
def broken_defenses() -> dict[str, type[BrokenDefense]]:
    """The broken defenses by name.

    >>> broken_defenses()["one-hot"].noticed_by
    ('zero-gradient',)
    """
    return {name: getattr(module, module.__all__[0]) for name, module in _modules(broken_folder)}


@cache
def honest_models() -> dict[str, HonestModel]:
    """The honest models by name.

    >>> honest_models()["pgd-at"].defense
    'pgd-at'
    """
    return {name: module.MODEL for name, module in _modules(honest_folder)}


def _modules(folder: ModuleType) -> list[tuple[str, ModuleType]]:
    """The files of a folder with their names, in alphabetical order."""
    names = sorted(entry.name for entry in pkgutil.iter_modules(folder.__path__))
    return [(name.replace("_", "-"), importlib.import_module(f"{folder.__name__}.{name}")) for name in names]
