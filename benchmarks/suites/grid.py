"""Expands an attack or a defense of a suite into its combinations of parameters."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

from pydantic import ValidationError, create_model

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.corruptions import BENCHMARK
from robustbench_cli.benchmarks.corruptions import registry as corruptions
from robustbench_cli.benchmarks.suites.config import AttackEntry, CorruptionEntry
from robustbench_cli.benchmarks.suites.suite import AttackChoice
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings, read_value

__all__ = [
    "attack_choices",
    "attack_class",
    "corruption_choices",
    "count_corruptions",
    "count_variants",
    "error_location",
    "variants",
]


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
                    perturbs=attack.perturbs,
                    eot=entry.eot or "auto",
                    any_precision=attack.access == "gradients" and not attack.minimal_norm,
                    surrogates=tuple(itertools.chain.from_iterable(surrogates.values())),
                    only_if=entry.only_if,
                    needs_gradients=attack.access == "gradients",
                )
            )
        return choices


def corruption_choices(entries: Sequence[CorruptionEntry]) -> list[MethodSpec | None]:
    """Corruptions with each of their severities and each combination of their parameters, each once.

    Args:
        entries: From the command line or a suite file.

    Returns:
        ``None`` for the images as they are, which is all that there is without an entry.

    Raises:
        UserError: The name or a parameter is unknown, or a value is not allowed.
    """
    choices: dict[str, MethodSpec | None] = {}
    for entry in entries:
        with error_location(entry.location):
            for choice in _corruption_specs(entry):
                choices.setdefault("" if choice is None else choice.canonical_identity, choice)
    return list(choices.values()) or [None]


def _corruption_specs(entry: CorruptionEntry) -> Iterator[MethodSpec | None]:
    """The choices of one entry."""
    if entry.name in {"none", "all"} and entry.parameters:
        raise UserError(
            f"{entry.name} is no single corruption and has no '{next(iter(entry.parameters))}': leave it out"
        )
    if entry.name == "none":
        if "severity" in entry.model_fields_set:
            raise UserError("the images without a corruption have no severity: leave it out")
        yield None
        return
    for name in BENCHMARK if entry.name == "all" else (entry.name,):
        parameters = {**entry.parameters, "severity": list(entry.severity)}
        for variant in variants(corruptions.load(name), parameters):
            yield method_spec(corruptions, name, variant).spec


def count_corruptions(entry: CorruptionEntry) -> int:
    """The number of choices of one entry; see :func:`corruption_choices`.

    Raises:
        UserError: The name is unknown.
    """
    if entry.name in {"none", "all"}:
        return 1 if entry.name == "none" else len(BENCHMARK) * len(entry.severity)
    with error_location(entry.location):
        return len(entry.severity) * count_variants(corruptions.load(entry.name), entry.parameters)


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
