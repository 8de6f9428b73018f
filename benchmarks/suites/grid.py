"""Expands an attack or a defense of a suite into its combinations of parameters."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

from pydantic import ValidationError, create_model

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.suites.config import AttackEntry
from robustbench_cli.benchmarks.suites.suite import AttackChoice
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings, read_value

__all__ = ["attack_choices", "attack_class", "count_variants", "error_location", "variants"]


def attack_class(entry: AttackEntry) -> type[Attack]:
    """The class of an attack.

    Args:
        entry: The attack, from the command line or a suite file.

    Raises:
        UserError: The name is unknown, or has a command of its own.
    """
    with error_location(entry.location):
        if entry.name == "reprogramming":
            raise UserError("reprogramming has a command of its own: run advdef reprogram --task NAME")
        attack: type[Attack] = attacks.load(entry.name)
        return attack


def attack_choices(entry: AttackEntry, *, named: Collection[str] = ()) -> list[AttackChoice]:
    """An attack with each combination of its parameters.

    Args:
        entry: The attack, from the command line or a suite file.
        named: Code of the user's own that they named, which a surrogate may need.

    Raises:
        UserError: The name or a parameter is unknown, or a value is not allowed.
    """
    attack = attack_class(entry)
    with error_location(entry.location):
        norms = entry.norms_among(attack.norms)
        if not norms:
            raise UserError(
                f"{entry.name} does not support the norm {', '.join(entry.norm or ())} (it supports "
                f"{', '.join(attack.norms)})"
            )
        choices = []
        for parameters in variants(attack, attack.current_names(entry.parameters, name=entry.name)):
            _, spec, surrogates = method_spec(attacks, entry.name, parameters, named=named)
            choices.append(
                AttackChoice(
                    spec=spec,
                    norms=norms,
                    limited=entry.norm is not None,
                    minimal_norm=attack.minimal_norm,
                    eot=entry.eot or "auto",
                    any_precision=attack.access == "gradients" and not attack.minimal_norm,
                    surrogate=next(iter(surrogates.values()), None),
                    only_if=entry.only_if,
                )
            )
        return choices


def variants(settings: type[Settings], parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each combination of parameters: a list for a parameter that takes a single value is a dimension of the grid.

    Args:
        settings: The attack, defense or recipe.
        parameters: Values and lists of values, by name.
    """
    dimensions = _dimensions(settings, parameters)
    for combination in itertools.product(*dimensions.values()):
        yield {key: _number_of(value) for key, value in zip(dimensions, combination, strict=True)}


def count_variants(settings: type[Settings], parameters: Mapping[str, Any]) -> int:
    """The number of combinations that :func:`variants` gives.

    Args:
        settings: See :func:`variants`.
        parameters: See :func:`variants`.
    """
    return prod(map(len, _dimensions(settings, parameters).values()))


def _dimensions(settings: type[Settings], parameters: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of each parameter."""
    return {
        key: value if isinstance(value, list) and value and not _is_single_value(settings, key, value) else [value]
        for key, value in parameters.items()
    }


def _is_single_value(settings: type[Settings], key: str, value: list[Any]) -> bool:
    """Whether a list is one value of a parameter, as in ``channels: [5, 5]``."""
    field = settings.model_fields.get(settings.current_name(key))
    if field is None:
        return True
    try:
        fields: dict[str, Any] = {"value": (field.annotation, field)}
        create_model("SingleValue", **fields).model_validate({"value": value})
    except ValidationError:
        return False
    return True


def _number_of(value: Any) -> Any:
    """A value from a file, where a fraction is text: ``2/255``."""
    if isinstance(value, str) and "/" in value and isinstance(number := read_value(value), float):
        return number
    return value


@contextmanager
def error_location(location: str) -> Iterator[None]:
    """Puts a location in front of the errors raised inside it.

    Args:
        location: A file and line; empty for none.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{location}: {error}" if location else str(error)) from None
