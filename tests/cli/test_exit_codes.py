from __future__ import annotations

import click
import pytest

from robustbench_cli.cli.dispatch import advdef
from robustbench_cli.cli.exit_codes import CellsFailed, GateFailed, resumes, unfinished
from robustbench_cli.cli.option_sets import option_sets


@pytest.mark.parametrize("kind", [GateFailed, CellsFailed])
def test_lines_are_kept_apart(kind: type[GateFailed | CellsFailed]) -> None:
    """One for each row or cell, to be printed one below the other."""
    error = kind(["a is 0.1", "b is 0.2"])
    assert error.lines == ("a is 0.1", "b is 0.2")
    assert str(error) == "a is 0.1; b is 0.2"


def test_an_interrupt_says_how_to_resume() -> None:
    """A command that computes resumes when it is run again; another has nothing to resume."""
    line = unfinished("interrupted", ["sweep", "a b.yaml"])
    assert line == "interrupted: what was finished is stored; resume with: advdef sweep 'a b.yaml'"
    assert unfinished("interrupted", ["report", "store"]) == unfinished("interrupted", []) == "interrupted"


def test_every_command_that_computes_resumes() -> None:
    """The list holds the commands with the options of computing, and no other."""
    context = click.Context(advdef)
    computing = {
        name
        for name in advdef.list_commands(context)
        if (command := advdef.get_command(context, name))
        and "common" in {s.argument for s in option_sets(command.callback)}
    }
    assert computing == {name for name in advdef.list_commands(context) if resumes([name])}
