from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import pytest

from robustbench_cli.cli.option_sets import OptionSet, collect, option_sets
from robustbench_cli.core.errors import UserError

PAIR = OptionSet("pair", lambda first, second: (first, second), (click.option("--first"), click.option("--second")))


def test_the_values_of_a_set_arrive_as_one_argument() -> None:
    """Other values stay, and the values of the set's options are gone."""

    @PAIR
    def function(**values: Any) -> None:
        """Takes options."""

    values = {"first": 1, "second": 2, "other": 3}
    collect(function, values)
    assert values == {"pair": (1, 2), "other": 3}


def test_a_function_may_have_several_sets() -> None:
    """Each set takes its own values; a function without sets keeps all of its values."""
    single = OptionSet("doubled", lambda number: 2 * number, (click.option("--number"),))

    @PAIR
    @single
    def function(**values: Any) -> None:
        """Takes options."""

    values: dict[str, Any] = {"first": 1, "second": 2, "number": 4}
    collect(function, values)
    assert values == {"pair": (1, 2), "doubled": 8}
    assert option_sets(function) == (single, PAIR)
    collect(None, values)
    assert values == {"pair": (1, 2), "doubled": 8}


def test_options_are_listed_in_their_order() -> None:
    """On the command, and by name; an option that reaches no function has no value."""
    hidden = click.option("--hidden", expose_value=False, callback=lambda *_: None)
    options = OptionSet("all", dict, (click.option("--b"), hidden, click.option("--a")))

    @click.command()
    @options
    def command(**values: Any) -> None:
        """Takes options."""

    assert [parameter.name for parameter in command.params] == ["b", "hidden", "a"]
    assert options.names == ["b", "a"]


def test_a_refusal_reaches_the_user(advdef: Callable[..., Any], add_command: Callable[[str, str], Any]) -> None:
    """An error of ``build`` is a usage error of the command."""

    def refuse(**_: Any) -> None:
        raise UserError("first and second exclude each other")

    @OptionSet("pair", refuse, PAIR.options)
    def function(**values: Any) -> None:
        """Takes options."""

    with pytest.raises(UserError, match="exclude each other"):
        collect(function, {"first": 1, "second": 2})
    add_command(
        "refusing",
        """
        import click
        from robustbench_cli.cli.option_sets import OptionSet
        from robustbench_cli.cli.options import command
        from robustbench_cli.core.errors import UserError

        def refuse(first):
            raise UserError("no first")

        @command("refusing")
        @OptionSet("value", refuse, [click.option("--first")])
        def refusing(value):
            pass
        """,
    )
    ended = advdef("refusing", "--first", "1")
    assert (ended.code, ended.err) == (2, "advdef: error: no first\n")
