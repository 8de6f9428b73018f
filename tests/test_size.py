"""Functions stay short and take few arguments; ruff's C901 and PLR0915 hold branches and statements."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("attacks", "benchmarks", "defenses")
MOST_LINES = 60
MOST_PARAMETERS = 8

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    """The source files, each once: the links inside robustbench_cli are left out."""
    links = {ROOT / "robustbench_cli" / folder for folder in LINKED}
    paths = [path for folder in (*LINKED, "robustbench_cli") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in paths if not links & set(path.parents)]


def functions(source: str) -> Iterator[Function]:
    yield from (node for node in ast.walk(ast.parse(source)) if isinstance(node, Function))


def lines(function: Function) -> int:
    """The lines from ``def`` to the end, docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: Function) -> int:
    """The parameters; ``self`` and ``cls`` do not count, nor do those that click passes to a command."""
    if any(
        ast.unparse(decorator).startswith(("click.", "command(", "option(", "help_page.option("))
        for decorator in function.decorator_list
    ):
        return 0
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    if named and named[0].arg in {"self", "cls"}:
        named = named[1:]
    return len([*named, *arguments.kwonlyargs]) + bool(arguments.vararg) + bool(arguments.kwarg)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_and_take_few_arguments(path: Path) -> None:
    """At most 60 lines and 8 parameters, but for commands, whose options click passes."""
    found = [
        f"{function.name}: {lines(function)} lines, {parameters(function)} parameters"
        for function in functions(path.read_text(encoding="utf-8"))
        if lines(function) > MOST_LINES or parameters(function) > MOST_PARAMETERS
    ]
    assert found == []


def test_lines_and_parameters_are_counted() -> None:
    """Decorators are no lines of a function, and each kind of parameter counts."""
    source = '@decorator\n@other\ndef f(a, /, b, *c, d, **e):\n    """One."""\n\n    return a\n'
    (function,) = functions(source)
    assert (lines(function), parameters(function)) == (4, 5)
    (method,) = functions("class A:\n    def f(self, a): ...")
    assert parameters(method) == 1
    (command,) = functions("@command('attack')\n@click.option('--a')\ndef attack(a, b): ...")
    assert parameters(command) == 0
