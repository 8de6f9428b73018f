"""Five floors: cli above benchmarks above defenses above attacks above core; rooms inside benchmarks; no import circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "robustbench_cli"
LINKED = ("attacks", "defenses", "benchmarks")

# A file imports from its own floor and from those before it in this list.
FLOORS = ("core", "attacks", "defenses", "benchmarks", "cli")

# Inside benchmarks, a file imports from its own room and from rooms of earlier lines; rooms of one line are independent.
ROOMS = (
    ("datasets", "weights", "devices"),
    ("models",),
    ("checkpoints",),
    ("corruptions", "evaluation"),
    ("store",),
    ("training", "execution", "certification", "reprogramming"),
    ("suites", "reports"),
    ("audit",),
    ("interface",),
    ("comparison",),
)
RANKS = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}

# Pairs of modules that break the order of the rooms, and why they cannot be moved.
EXCEPTIONS: dict[tuple[str, str], str] = {}

PEERS = {"adv_lib", "art", "cleverhans", "foolbox", "pyautoattack", "torchattacks"}
HEAVY = {"torch", "torchvision", "scipy", "sklearn", "pandas"}
LIGHT = [
    *(ROOT / f"{folder}/__init__.py" for folder in (*LINKED, "attacks/base", "defenses/base")),
    *(ROOT / f"benchmarks/{room}/__init__.py" for room in RANKS if room != "devices"),
    ROOT / "advdef.py",
    ROOT / "defenses/base/training/augmentations/__init__.py",
    ROOT / "defenses/base/training/processes.py",
    ROOT / "attacks/base/eps.py",
    ROOT / "benchmarks/checkpoints/method_spec.py",
    ROOT / "benchmarks/evaluation/options.py",
    ROOT / "benchmarks/execution/job.py",
    *(ROOT / f"benchmarks/store/{name}.py" for name in ("cell", "store")),
    *(ROOT / f"benchmarks/suites/{name}.py" for name in ("config", "grid", "load", "plan", "suite")),
    *(ROOT / PACKAGE).glob("*.py"),
    *(ROOT / PACKAGE / "core").glob("*.py"),
    *(ROOT / PACKAGE / "cli").rglob("*.py"),
]


def files(root: Path = ROOT) -> list[Path]:
    """The source files, each once: the links inside robustbench_cli are left out."""
    linked = {root / PACKAGE / folder for folder in LINKED}
    paths = [path for folder in (*LINKED, PACKAGE) for path in sorted((root / folder).rglob("*.py"))]
    return [path for path in paths if not linked & set(path.parents) and "__pycache__" not in path.parts]


def module_name(path: Path, root: Path) -> str:
    """The dotted name that a file is imported by."""
    parts = path.relative_to(root).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[:1] == (PACKAGE,) else (PACKAGE, *parts))


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


def imported(path: Path, root: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """The dotted names that a file imports; for ``from a import b`` that is ``a.b``."""
    name = module_name(path, root)
    package = (name if path.name == "__init__.py" else name.rpartition(".")[0]).split(".")
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), inside_functions=not at_import_time):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def floor_of(module: str) -> int:
    """The number of a module's floor, from 0; what lies in no floor (the package itself) is above all of them."""
    parts = module.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 and parts[1] in FLOORS else len(FLOORS)


def room_of(module: str) -> str | None:
    """The room of a module of benchmarks."""
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["benchmarks"] and len(parts) > 2 and parts[2] in RANKS else None


def breaks_the_order(module: str, target: str) -> bool:
    """Whether an import goes up to a higher floor or to a room that is not before the importer's."""
    if target.split(".", maxsplit=1)[0] in {*LINKED, "advdef"}:
        return True  # a name that only a checkout has, or that is for users
    if target.split(".", maxsplit=1)[0] != PACKAGE:
        return False
    if floor_of(target) > floor_of(module):
        # Every floor may read the version.
        return target != f"{PACKAGE}.__version__"
    room, other = room_of(module), room_of(target)
    return room is not None and other is not None and room != other and RANKS[other] >= RANKS[room]


def upward(path: Path, root: Path) -> list[str]:
    """The imports of a file that break the order."""
    module = module_name(path, root)
    return [target for target in imported(path, root) if breaks_the_order(module, target)]


def printing(path: Path, root: Path) -> list[str]:
    """Where a file below the command line prints, or imports what prints; benchmarks/comparison holds programs."""
    module = module_name(path, root)
    if floor_of(module) >= FLOORS.index("cli") or room_of(module) == "comparison":
        return []
    places = [name for name in imported(path, root) if name.split(".")[0] in {"click", "rich"}]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "input"}:
            places.append(f"line {node.lineno}: {ast.unparse(node.func)}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout", "sys.stderr"}:
            places.append(f"line {node.lineno}: {ast.unparse(node)}")
    return places


@cache
def import_graph() -> dict[str, set[str]]:
    """The project's modules that each module imports, at import time or inside functions."""
    modules = {module_name(path, ROOT): path for path in files()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = imported(path, ROOT)
        targets = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = (targets & set(modules)) - {module}
    # The package itself imports its exports when they are used.
    return graph | {PACKAGE: set()}


def in_circles(graph: dict[str, set[str]]) -> set[str]:
    """The nodes of a graph that lie on a circle, or on a way from one circle to another."""
    remaining = {node: set(targets) for node, targets in graph.items()}
    while True:
        targets = set().union(*remaining.values()) if remaining else set()
        ends = {node for node in remaining if not remaining[node] or node not in targets}
        if not ends:
            return set(remaining)
        remaining = {node: edges - ends for node, edges in remaining.items() if node not in ends}


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files(), ids=label)
def test_a_file_imports_from_below(path: Path) -> None:
    """A file imports from its own floor and room and from those below, and no other library of attacks."""
    module = module_name(path, ROOT)
    assert [target for target in upward(path, ROOT) if not is_exception(module, target)] == []
    if room_of(module) != "comparison":
        # attacks/foolbox.py offers the attacks of Foolbox.
        assert (PEERS - {path.stem}).isdisjoint(name.split(".")[0] for name in imported(path, ROOT))


def is_exception(module: str, target: str) -> bool:
    return any((module, name) in EXCEPTIONS for name in (target, target.rpartition(".")[0]))


@pytest.mark.parametrize("path", files(), ids=label)
def test_only_the_command_line_prints(path: Path) -> None:
    """The floors below it return what they find."""
    assert printing(path, ROOT) == []


@pytest.mark.parametrize("path", LIGHT, ids=label)
def test_a_light_module_imports_nothing_heavy(path: Path) -> None:
    """What `advdef --help` and a suite's expansion load imports torch and its like only inside functions."""
    assert HEAVY.isdisjoint(name.split(".")[0] for name in imported(path, ROOT, at_import_time=True))


def test_no_circle_among_files() -> None:
    """No file imports itself by way of others, be it inside a function."""
    assert in_circles(import_graph()) == set()


def test_the_rooms_are_those_of_the_tree() -> None:
    """Every folder of benchmarks has its line in the order."""
    folders = {path.parent.name for path in (ROOT / "benchmarks").glob("*/__init__.py")}
    single = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    assert folders | single == set(RANKS)


def test_every_exception_is_needed() -> None:
    """A pair of modules that keeps the order by now is no exception any more."""
    graph = import_graph()
    assert [pair for pair in EXCEPTIONS if pair[1] not in graph.get(pair[0], ())] == []


@pytest.mark.parametrize(
    ("file", "line", "wrong"),
    [
        ("attacks/a.py", "from robustbench_cli.defenses import registry", ["robustbench_cli.defenses.registry"]),
        (
            "attacks/base/a.py",
            "def f():\n    import robustbench_cli.benchmarks.store.cell",
            ["robustbench_cli.benchmarks.store.cell"],
        ),
        ("defenses/a.py", "from robustbench_cli.cli import console", ["robustbench_cli.cli.console"]),
        ("defenses/a.py", "from robustbench_cli import benchmarks", ["robustbench_cli.benchmarks"]),
        ("defenses/a.py", "from robustbench_cli import PGD", ["robustbench_cli.PGD"]),
        ("defenses/a.py", "from robustbench_cli import __version__", []),
        ("defenses/a.py", "from ..benchmarks.store import cell", ["robustbench_cli.benchmarks.store.cell"]),
        ("defenses/a.py", "from .. import benchmarks", ["robustbench_cli.benchmarks"]),
        ("defenses/__init__.py", "from .. import benchmarks", ["robustbench_cli.benchmarks"]),
        ("robustbench_cli/core/a.py", "from ..attacks import registry", ["robustbench_cli.attacks.registry"]),
        ("benchmarks/a.py", "import attacks", ["attacks"]),
        ("benchmarks/a.py", "from advdef import PGD", ["advdef.PGD"]),
        ("benchmarks/a.py", "from robustbench_cli.defenses import registry", []),
        ("benchmarks/a.py", "from .models import registry", []),
        ("benchmarks/a.py", "from ..cli.commands import show", ["robustbench_cli.cli.commands.show"]),
        ("benchmarks/store/a.py", "from ..suites import suite", ["robustbench_cli.benchmarks.suites.suite"]),
        ("benchmarks/store/a.py", "from ..evaluation import evaluate", []),
        ("benchmarks/suites/a.py", "from .. import reports", ["robustbench_cli.benchmarks.reports"]),
        ("robustbench_cli/cli/a.py", "from robustbench_cli.benchmarks.store import cell", []),
        ("robustbench_cli/cli/commands/a.py", "from ...benchmarks import cell", []),
    ],
)
def test_an_import_from_above_is_recognized(tmp_path: Path, file: str, line: str, wrong: list[str]) -> None:
    """The reader of imports recognizes each way to write an import."""
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert upward(path, tmp_path) == wrong


@pytest.mark.parametrize(
    "line", ["print(1)", "import sys\nsys.stderr.write('a')", "import click", "from rich import box"]
)
def test_printing_is_recognized(tmp_path: Path, line: str) -> None:
    """The test of printing recognizes each way to print."""
    path = tmp_path / "defenses/a.py"
    path.parent.mkdir()
    path.write_text(line)
    assert len(printing(path, tmp_path)) == 1


@pytest.mark.parametrize(
    ("edges", "circle"),
    [(["ab", "bc"], ""), (["ab", "ba", "bc"], "ab"), (["ab", "bc", "ca", "ad", "ea"], "abc")],
)
def test_a_circle_is_recognized(edges: Iterable[str], circle: str) -> None:
    """Modules that lead into a circle or out of it are not part of it."""
    graph: dict[str, set[str]] = {node: set() for node in "abcde"}
    for start, end in edges:
        graph[start].add(end)
    assert in_circles(graph) == set(circle)


@pytest.mark.parametrize(
    "code",
    [
        "import robustbench_cli",
        "import advdef; dir(advdef)",
        "from robustbench_cli.cli.main import main; main(['--help'])",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(code: str) -> None:
    """Importing the package and asking for help load neither torch nor any other library that takes seconds."""
    code = f"import sys; {code}; sys.exit(' '.join({HEAVY!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert done.returncode == 0
