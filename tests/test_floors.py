"""The floors: robustbench_cli above benchmarks above defenses above attacks, each importing only from below."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("attacks", "defenses", "benchmarks", "robustbench_cli")
PEERS = {"art", "autoattack", "cleverhans", "foolbox", "torchattacks"}
LIGHT = [
    ROOT / path
    for path in (
        *("attacks/__init__.py", "defenses/__init__.py", "benchmarks/__init__.py"),
        *("attacks/base/__init__.py", "defenses/base/__init__.py"),
        *("robustbench_cli/core/errors.py", "robustbench_cli/core/registry.py", "robustbench_cli/core/settings.py"),
        "defenses/base/training/processes.py",
        *("benchmarks/datasets/__init__.py", "benchmarks/models/__init__.py"),
        *("benchmarks/store/cell.py", "benchmarks/store/store.py", "benchmarks/suites/suite.py"),
    )
] + [*(ROOT / "robustbench_cli").glob("*.py"), *(ROOT / "robustbench_cli/commands").glob("*.py")]
HEAVY = {"torch", "torchvision", "scipy", "sklearn", "pandas"}


def files(root: Path = ROOT) -> list[Path]:
    """The files of all floors, each once: the links inside robustbench_cli are left out."""
    linked = {root / "robustbench_cli" / floor for floor in FLOORS}
    return [
        path
        for floor in FLOORS
        for path in sorted((root / floor).rglob("*.py"))
        if not linked & set(path.parents) and "__pycache__" not in path.parts
    ]


def imported(path: Path, root: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """The dotted names of the modules that a file imports, those of ``from a import b`` as ``a.b``."""
    folders = path.relative_to(root).parent.parts
    package = [*folders] if folders[0] == "robustbench_cli" else ["robustbench_cli", *folders]
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), inside_functions=not at_import_time):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            place = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{place}.{alias.name}" for alias in node.names)


def nodes(tree: ast.AST, *, inside_functions: bool) -> Iterator[ast.AST]:
    """All nodes; or those that run when the module is imported, which the block of TYPE_CHECKING does not."""
    for node in ast.iter_child_nodes(tree):
        if not inside_functions:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                continue
        yield node
        yield from nodes(node, inside_functions=inside_functions)


def floor_of(path: Path, root: Path) -> int:
    """The floor that a file stands on, counted from 0, the attacks."""
    return FLOORS.index(path.relative_to(root).parts[0])


def upward(path: Path, root: Path) -> list[str]:
    """What a file imports from floors above its own, or under a name that only a checkout has."""
    wrong = []
    for name in imported(path, root):
        first, *rest = name.split(".")
        if first in FLOORS[:3]:
            wrong.append(name)
        if first == "robustbench_cli":
            target = FLOORS.index(rest[0]) if rest and rest[0] in FLOORS[:3] else 3
            if target > floor_of(path, root):
                wrong.append(name)
    return wrong


def spoken(path: Path, root: Path) -> list[str]:
    """Where a file of floors 1 to 3 prints, or imports what prints; the measured comparisons are programs and may."""
    if floor_of(path, root) == 3 or path.is_relative_to(root / "benchmarks/comparison"):
        return []
    found = [name for name in imported(path, root) if name.split(".")[0] in {"click", "rich"}]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "input"}:
            found.append(f"line {node.lineno}: {ast.unparse(node.func)}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout", "sys.stderr"}:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_to_its_floor(path: Path) -> None:
    """A file imports only from its own floor and those below, never another library of attacks, and prints only at the top."""
    assert upward(path, ROOT) == []
    assert spoken(path, ROOT) == []
    if not path.is_relative_to(ROOT / "benchmarks/comparison"):
        assert PEERS.isdisjoint(name.split(".")[0] for name in imported(path, ROOT))


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_light_module_imports_nothing_heavy(path: Path) -> None:
    """What `advdef --help` and a suite's expansion load imports torch and its like only inside functions."""
    assert HEAVY.isdisjoint(name.split(".")[0] for name in imported(path, ROOT, at_import_time=True))


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("attacks/a.py", "from robustbench_cli.defenses import registry", ["robustbench_cli.defenses.registry"]),
        (
            "attacks/base/a.py",
            "def f():\n    import robustbench_cli.benchmarks.store.cell",
            ["robustbench_cli.benchmarks.store.cell"],
        ),
        ("defenses/a.py", "from robustbench_cli import console", ["robustbench_cli.cli.console"]),
        ("defenses/a.py", "from robustbench_cli import benchmarks", ["robustbench_cli.benchmarks"]),
        ("defenses/a.py", "from ..benchmarks import cell", ["robustbench_cli.benchmarks.store.cell"]),
        ("defenses/a.py", "from .. import benchmarks", ["robustbench_cli.benchmarks"]),
        ("benchmarks/a.py", "import attacks", ["attacks"]),
        ("benchmarks/a.py", "from robustbench_cli.defenses import registry", []),
        ("benchmarks/a.py", "from .models import registry", []),
        ("benchmarks/a.py", "from ..commands import show", ["robustbench_cli.cli.commands.show"]),
        ("robustbench_cli/a.py", "from robustbench_cli.benchmarks import cell", []),
        ("robustbench_cli/commands/a.py", "from ..benchmarks import cell", []),
    ],
)
def test_an_import_from_above_is_found(tmp_path: Path, file: str, line: str, found: list[str]) -> None:
    """The reader of imports sees each way to write an import."""
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert upward(path, tmp_path) == found


@pytest.mark.parametrize(
    "line", ["print(1)", "import sys\nsys.stderr.write('a')", "import click", "from rich import box"]
)
def test_printing_is_found(tmp_path: Path, line: str) -> None:
    """Each way to print on a lower floor is seen."""
    path = tmp_path / "defenses/a.py"
    path.parent.mkdir()
    path.write_text(line)
    assert len(spoken(path, tmp_path)) == 1


@pytest.mark.parametrize(
    "code", ["import robustbench_cli", "from robustbench_cli.cli.main import main; main(['--help'])"]
)
def test_torch_is_not_imported_before_it_is_needed(code: str) -> None:
    """Importing the package and asking for help load neither torch nor any other library that takes seconds."""
    ask = f"import sys; {code}; sys.exit(' '.join({HEAVY!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert done.returncode == 0
