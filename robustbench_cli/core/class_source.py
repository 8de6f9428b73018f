"""Reads a class's docstring and constants from its source file, without an import of the file and of torch."""

from __future__ import annotations

import ast
import importlib.util
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["ClassSource", "read_class", "read_exported", "source_of"]

_OWN = "robustbench_cli."


@dataclass(frozen=True)
class ClassSource:
    """What a source file says about a class, or about a function.

    Attributes:
        docstring: Its own docstring, as written.
        constants: Its class attributes with literal values, and those of its bases.
    """

    docstring: str
    constants: dict[str, Any] = field(default_factory=dict)


def read_exported(module: str) -> ClassSource | None:
    """Reads the first name in ``__all__`` of one of the project's modules; see :func:`read_class`."""
    tree = _tree(module)
    exported = [] if tree is None else _constants(tree.body).get("__all__", [])
    return read_class(module, exported[0]) if exported else None


def read_class(module: str, name: str) -> ClassSource | None:
    """Reads a class or a function that one of the project's modules defines or imports.

    Args:
        module: The module's dotted name.
        name: The name of the class or function.

    Returns:
        What its source says; ``None`` where there is no such source.
    """
    tree = _tree(module)
    if tree is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            constants = _of_class(module, node.name) if isinstance(node, ast.ClassDef) else {}
            return ClassSource(ast.get_docstring(node, clean=False) or "", constants)
    imported = _imports(tree).get(name)
    return None if imported is None else read_class(*imported)


def _imports(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """The module and name behind each imported name."""
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _of_class(module: str, name: str) -> dict[str, Any]:
    """The constants of a class, its own before those of its bases."""
    tree = _tree(module)
    if tree is None:
        return {}
    imported = _imports(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            constants: dict[str, Any] = {}
            for base in reversed(node.bases):
                if isinstance(base, ast.Name):
                    constants |= _of_class(*imported.get(base.id, (module, base.id)))
            return constants | _constants(node.body)
    return {}


def _constants(body: list[ast.stmt]) -> dict[str, Any]:
    """The names that a block sets to literals."""
    constants = {}
    for node in body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                with suppress(ValueError):
                    constants[target.id] = ast.literal_eval(node.value)
    return constants


def source_of(module: str) -> bytes | None:
    """The source of a module, without an import; ``None`` where it cannot be read.

    The loader is not asked: that of pytest, which rewrites the modules of a package with a plugin, knows no source.

    Args:
        module: The module's dotted name.
    """
    try:
        spec = importlib.util.find_spec(module)
        return None if spec is None or spec.origin is None else Path(spec.origin).read_bytes()
    except (ImportError, OSError, ValueError):
        return None


@cache
def _tree(module: str) -> ast.Module | None:
    """The syntax tree of one of the project's modules; ``None`` for others and for files that cannot be read."""
    source = source_of(module) if module.startswith(_OWN) else None
    if source is None:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None
