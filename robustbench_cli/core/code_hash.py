"""What a user's own code is, as a hash: it tells the versions of a method apart."""

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
    """The sha256 of modules' source files and of those that they import from their own folders, at any depth.

    What lies elsewhere is a library, whose version a result names. A package's own folder is that of its topmost
    package. Only the files' content counts, and how they lie to each other; not where.

    Args:
        modules: Their names, imported already. Those after the first count unless they are of a library.

    Returns:
        The sha256 of the one file where there is one; ``None`` where there is none.
    """
    found: dict[Path, tuple[str, str]] = {}
    for module in modules:
        start = _file_of(module)
        top = _file_of(module.partition(".")[0])
        if start is not None and not (found and _is_library(start, next(iter(found)).parent)):
            _collect(module, start, (top or start).parent, found)
    digests = sorted(found.values())
    if len(digests) < 2:
        return digests[0][1] if digests else None
    return hashlib.sha256(repr(digests).encode()).hexdigest()


def _collect(module: str, start: Path, root: Path, found: dict[Path, tuple[str, str]]) -> None:
    """Adds by its file the place below ``root`` and the sha256 of a module, and of what it imports from there."""
    ahead = [(module, start)]
    while ahead:
        name, file = ahead.pop()
        if file in found:
            continue
        content = file.read_bytes()
        found[file] = ("" if file == start else file.relative_to(root).as_posix(), hashlib.sha256(content).hexdigest())
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for imported in _imports(content, package):
            path = _file_of(imported)
            if path is not None and path.is_relative_to(root) and not _is_library(path, root):
                ahead.append((imported, path))


def _is_library(path: Path, root: Path) -> bool:
    """Whether a file belongs to what is installed and not to the code in ``root``, which may be installed itself."""
    return any(
        path.is_relative_to(folder) and (root == folder or not root.is_relative_to(folder)) for folder in _LIBRARIES
    )


def _imports(source: bytes, package: str) -> Iterator[str]:
    """The modules that a source file may import, wherever in it: of ``from a import b`` both ``a`` and ``a.b``."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            place = ".".join([*filter(None, above), *filter(None, [node.module])])
            yield from _with_parents(place)
            yield from (f"{place}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> Iterator[str]:
    words = name.split(".")
    yield from (".".join(words[: count + 1]) for count in range(len(words)))


def _file_of(name: str) -> Path | None:
    """The source file of a module that has been imported, or could be without running the package that it is in."""
    parent = name.rpartition(".")[0]
    if (parent and parent not in sys.modules) or name.partition(".")[0] == __name__.partition(".")[0]:
        return None
    try:
        module = sys.modules.get(name)
        spec = importlib.util.find_spec(name) if module is None else module.__spec__
        file = spec.origin if spec is not None else None
    except (ImportError, AttributeError, ValueError):
        return None
    path = Path(file).resolve() if file and file.endswith(".py") else None
    return path if path is not None and path.is_file() else None
