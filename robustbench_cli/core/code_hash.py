"""Hashes a user's own source code, to distinguish the versions of a method."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["hash_of_code"]

_LIBRARIES = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def hash_of_code(*modules: str) -> str | None:
    """The sha256 of some modules' source files and of the files that they import from their own folders, at any depth.

    Files elsewhere belong to a library, whose version a result records. A package's own folder is the one that contains
    its top-level package. The hash depends on the contents and the relative paths of the files, but not on where the
    folder is.

    Args:
        modules: Names of imported modules. Those after the first are left out if they belong to a library.

    Returns:
        The hash of the file if there is only one; ``None`` if there is none.
    """
    digests: dict[Path, tuple[str, str]] = {}
    for module in modules:
        start = _file_of(module)
        top = _file_of(module.partition(".")[0])
        if start is not None and not (digests and _is_library(start, next(iter(digests)).parent)):
            _collect(module, start, (top or start).parent, digests)
    ordered = sorted(digests.values())
    if len(ordered) < 2:
        return ordered[0][1] if ordered else None
    return hashlib.sha256(repr(ordered).encode()).hexdigest()


def _collect(module: str, start: Path, root: Path, digests: dict[Path, tuple[str, str]]) -> None:
    """Adds a module's file and the files that it imports below ``root``: each with its relative path and its sha256."""
    pending = [(module, start)]
    while pending:
        name, file = pending.pop()
        if file in digests:
            continue
        content = file.read_bytes()
        relative = "" if file == start else file.relative_to(root).as_posix()
        digests[file] = (relative, hashlib.sha256(content).hexdigest())
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for imported in _imports(content, package):
            path = _file_of(imported)
            if path is not None and path.is_relative_to(root) and not _is_library(path, root):
                pending.append((imported, path))


def _is_library(path: Path, root: Path) -> bool:
    """Whether a file belongs to an installed library, and not to the user's code in ``root``.

    The user's code may itself be installed in a library folder.
    """
    return any(
        path.is_relative_to(folder) and (root == folder or not root.is_relative_to(folder)) for folder in _LIBRARIES
    )


def _imports(source: bytes, package: str) -> Iterator[str]:
    """The modules that a source file may import, anywhere in it: for ``from a import b`` both ``a`` and ``a.b``."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        # Python cannot import this file either.
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*filter(None, above), *filter(None, [node.module])])
            yield from _with_parents(base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    """``a``, ``a.b`` and ``a.b.c`` for the name ``a.b.c``."""
    parts = name.split(".")
    yield from (".".join(parts[: count + 1]) for count in range(len(parts)))


def _file_of(name: str) -> Path | None:
    """The source file of a module that is imported, or that can be located without running its parent package."""
    parent = name.rpartition(".")[0]
    if (parent and parent not in sys.modules) or name.partition(".")[0] == __name__.partition(".")[0]:
        return None
    try:
        module = sys.modules.get(name)
        spec = importlib.util.find_spec(name) if module is None else module.__spec__
        file = spec.origin if spec is not None else None
    except (ImportError, AttributeError, ValueError):
        # The name is not a module, such as ``a.b`` for a function b of the module a.
        return None
    path = Path(file).resolve() if file and file.endswith(".py") else None
    return path if path is not None and path.is_file() else None
