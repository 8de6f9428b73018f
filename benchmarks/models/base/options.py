"""Reads the options of a model: the words after its name, as in ``wrn-28-10:silu``."""

from __future__ import annotations

from collections.abc import Collection

from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["model_options"]


def model_options(argument: str | None, known: Collection[str], *, model: str) -> frozenset[str]:
    """The options in a model's name.

    Args:
        argument: What follows the colon, with commas between several options; ``None`` for a name without a colon.
        known: The options that the model has.
        model: The model's name, for messages.

    Raises:
        UserError: An option is unknown.

    >>> sorted(model_options("silu", ["deepmind", "silu"], model="wrn-28-10"))
    ['silu']
    """
    if argument is None:
        return frozenset()
    options = argument.split(",")
    for option in options:
        if option not in known:
            raise UserError(f"model {model} has no option '{option}': {did_you_mean(option, known, kind='option')}")
    return frozenset(options)
