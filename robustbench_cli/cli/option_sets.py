"""Sets of options that reach a command together, as one argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

__all__ = ["Decorator", "OptionSet", "collect", "option_sets"]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Adds options to a command's function."""

_ATTRIBUTE = "__option_sets__"


@dataclass(frozen=True)
class OptionSet:
    """Options that a command takes as one argument. As a decorator it adds them to the command's function.

    Attributes:
        argument: The name of the argument.
        build: Makes its value from the values of the options, by their names.
        options: The decorators of the options, in the order of the help page.
    """

    argument: str
    build: Callable[..., Any]
    options: Sequence[Decorator]

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Adds the options to a function."""
        setattr(function, _ATTRIBUTE, (*option_sets(function), self))
        for add in reversed(self.options):
            function = add(function)
        return function

    @property
    def names(self) -> list[str]:
        """The parameter names of the options."""

        def declared() -> None:
            """Holds the options."""

        for add in self.options:
            add(declared)
        parameters: list[click.Parameter] = vars(declared)["__click_params__"]
        return [parameter.name for parameter in parameters if parameter.expose_value and parameter.name is not None]


def option_sets(function: Callable[..., Any] | None) -> tuple[OptionSet, ...]:
    """The option sets of a command's function."""
    return tuple(getattr(function, _ATTRIBUTE, ()))


def collect(function: Callable[..., Any] | None, values: dict[str, Any]) -> None:
    """Replaces the values of options by the arguments that their sets make of them.

    Args:
        function: The command's function.
        values: The values of all options by parameter name; changed in place.

    Raises:
        UserError: A set refuses its values.
    """
    for options in option_sets(function):
        values[options.argument] = options.build(**{name: values.pop(name) for name in options.names})
