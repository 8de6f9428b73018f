from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from robustbench_cli.cli.config_file import long_name
from robustbench_cli.cli.dispatch import advdef as group
from robustbench_cli.cli.help_page import GROUPS, Option, epilog, option, variable

CONTEXT = click.Context(group)
COMMANDS = {name: group.get_command(CONTEXT, name) for name in group.list_commands(CONTEXT)}


def sections(text: str) -> dict[str, list[str]]:
    """The long options of a help page by the title above them."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z][a-z]+:", line):
            title = line.removesuffix(":")
        elif title and (named := re.match(r"  (?:-\w, )?--([a-z0-9-]+)", line)):
            found.setdefault(title, []).append(named[1])
    return found


def test_attack_has_the_groups_of_the_contract(advdef: Callable[..., Any]) -> None:
    """Model, Data, Defense, Attack, Gates, Output and Run, in this order, each with its options."""
    found = sections(advdef("attack", "--help").out)
    assert list(found) == ["Model", "Data", "Defense", "Attack", "Gates", "Output", "Run"]
    assert {"checkpoint", "model", "mean", "std"} <= {*found["Model"]}
    preprocessing = {"image-size", "resize", "crop", "interpolation", "channels", "on-bad-image"}
    assert {"dataset", "n", "data-dir", "corruption", "severity", *preprocessing} == {*found["Data"]}
    assert {"defense", "decision", "repeats"} == {*found["Defense"]}
    assert {"attack", "suite", "norm", "eps", "eot", "targeted"} <= {*found["Attack"]}
    assert {"output", "format", "store", "save-images"} == {*found["Output"]}
    assert {"config", "device", "seed", "quiet", "verbose", "help"} <= {*found["Run"]}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_one_group(name: str) -> None:
    """All that is not hidden is on the page once, and every group has a title that the page knows."""
    command = COMMANDS[name]
    assert command is not None
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    found = sections(command.get_help(context))
    assert {*found} <= {*GROUPS}
    shown = [entry for titles in found.values() for entry in titles]
    visible = [entry for entry in command.get_params(context) if isinstance(entry, click.Option) and not entry.hidden]
    assert sorted(shown) == sorted(long_name(entry) for entry in visible)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_environment_is_explained_once(name: str) -> None:
    """By the rule and an example from the command itself, and beside no option."""
    command = COMMANDS[name]
    assert command is not None
    page = command.get_help(click.Context(command, info_name=name))
    # A name may be wrapped behind a hyphen.
    text = " ".join(re.sub(r"-\n\s*", "-", page).split())
    (example, spelled) = re.findall(r"such as (ADVDEF_[A-Z0-9_]+) for --([a-z0-9-]+)", text)[0]
    options = [entry for entry in command.params if isinstance(entry, click.Option)]
    assert {long_name(entry): entry.envvar for entry in options}[spelled] == example
    assert text.count("environment variable") == 1
    assert "env var" not in text


def test_help_pages_import_neither_torch_nor_pandas() -> None:
    """Help is there at once."""
    program = (
        "import sys; from robustbench_cli.cli.main import main; "
        "codes = [main([name, '--help']) for name in sys.argv[1:]]; assert not any(codes), codes; "
        "sys.exit(bool({'torch', 'pandas', 'scipy'} & {*sys.modules}))"
    )
    ended = subprocess.run([sys.executable, "-c", program, *COMMANDS], check=False, stdout=subprocess.DEVNULL)
    assert ended.returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_no_bounds_that_do_not_exist(name: str) -> None:
    """Click would print a range without ends."""
    command = COMMANDS[name]
    assert command is not None
    assert "None" not in command.get_help(click.Context(command, info_name=name))


def test_an_option_declares_its_group() -> None:
    """A new group comes after those of the list; without a group an option is in Run."""

    @click.command()
    @option("--one", group="Special", help="first")
    @option("--two", group="Attack", help="second")
    @option("--three", help="third")
    def made_up() -> None: ...

    assert isinstance(made_up, click.Command)
    assert [entry.group for entry in made_up.params if isinstance(entry, Option)] == ["Special", "Attack", "Run"]
    assert variable(made_up.params[0]) == "ADVDEF_ONE"  # type: ignore[arg-type]
    assert epilog(made_up) == "Each option has an environment variable, such as ADVDEF_ONE for --one."


def test_each_command_says_what_it_does_with_a_checkpoint(advdef: Callable[..., Any]) -> None:
    """And a command that stores no results does not offer to."""
    for name, text in (
        ("attack", "Attack"),
        ("certify", "Certify"),
        ("reprogram", "Reprogram"),
        ("train", "Start from"),
    ):
        assert f"{text} the model in this file." in advdef(name, "--help").out
    assert "--store" not in advdef("train", "--help").out
