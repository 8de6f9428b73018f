"""From the words for an attack or a defense to its parameters, one combination after the other."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError, create_model

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.draws import EOTChoice
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.suites.config import AttackEntry
from robustbench_cli.benchmarks.suites.suite import AttackChoice
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings, read_value

__all__ = ["attack_choices", "attack_kind", "error_location", "variants"]


def attack_kind(member: AttackEntry) -> type[Attack]:
    """The class of an attack of a command or a suite.

    Raises:
        UserError: The name is unknown, or a command of its own runs it.
    """
    with error_location(member.place):
        if member.name == "reprogramming":
            raise UserError("reprogramming has a task and a command of its own: give advdef reprogram --task NAME")
        kind: type[Attack] = attacks.load(member.name)
        return kind


def attack_choices(
    member: AttackEntry,
    parameters: Mapping[str, Any] | None = None,
    eot: EOTChoice | None = None,
    *,
    named: Collection[str] = (),
) -> list[AttackChoice]:
    """An attack of a command or a suite, for each combination of its parameters.

    Args:
        member: The attack; what it says of ``eot`` goes before the command's word.
        parameters: What the user set of it beside, which goes before what the member says.
        eot: Draws a gradient.
        named: Code of the user's own that the user has named, which a surrogate may need.

    Raises:
        UserError: The name or a parameter is unknown, or a value not allowed.
    """
    kind = attack_kind(member)
    with error_location(member.place):
        norms = member.among(kind.norms)
        if not norms:
            raise UserError(
                f"{member.name} does not know the norm {', '.join(member.norm or ())}: it knows {', '.join(kind.norms)}"
            )
        found = []
        own = kind.current_names(member.parameters, name=member.name)
        for each in variants(kind, {**own, **kind.current_names(parameters or {}, name=member.name)}):
            _, spec, surrogates = method_spec(attacks, member.name, each, named=named)
            found.append(
                AttackChoice(
                    spec=spec,
                    norms=norms,
                    limited=member.norm is not None,
                    minimal_norm=kind.minimal_norm,
                    eot=member.eot or eot or "auto",
                    in_bf16=kind.uses == "gradients" and not kind.minimal_norm,
                    surrogate=next(iter(surrogates.values()), None),
                    only_if=member.only_if,
                )
            )
        return found


def variants(kind: type[Settings], parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Parameters as a suite gives them: a list where the method takes a single value is a dimension of the grid."""
    values = {
        key: value if isinstance(value, list) and not _is_one_value(kind, key, value) and value else [value]
        for key, value in parameters.items()
    }
    for combination in itertools.product(*values.values()):
        yield {key: _value(each) for key, each in zip(values, combination, strict=True)}


def _is_one_value(kind: type[Settings], key: str, value: list[Any]) -> bool:
    field = kind.model_fields.get(kind.current_name(key))
    if field is None:
        return True
    try:
        fields: dict[str, Any] = {"value": (field.annotation, field)}
        create_model("One", **fields).model_validate({"value": value})
    except ValidationError:
        return False
    return True


def _value(value: Any) -> Any:
    """A value as a file has it, where a fraction is a word: ``2/255``."""
    if isinstance(value, str) and "/" in value and isinstance(number := read_value(value), float):
        return number
    return value


@contextmanager
def error_location(place: str) -> Iterator[None]:
    """Names a place in front of what is wrong there."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}" if place else str(error)) from None
