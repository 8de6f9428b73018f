"""A parameter that is another attack: words as data, the attack where it is used."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.core.errors import UserError

__all__ = ["NestedAttack"]


def _built(value: Any) -> Any:
    """The attack that words name, alone or with its parameters; what is no words stays as it is."""
    words = {"name": value} if isinstance(value, str) else value
    if not isinstance(words, dict):
        return words
    name = words.get("name")
    if not isinstance(name, str):
        raise UserError("give the name of an attack, alone or as in {name: di-fgsm, steps: 20}")
    # What a user's own code is would be missing from the identity of a cell.
    if ":" in name or registry.source_of(name) is not None:
        raise UserError("give one of the project's own attacks, such as mi-fgsm")
    parameters = {key: given for key, given in words.items() if key != "name"}
    return registry.load(name).from_parameters(parameters, name=name)


def _as_words(attack: Attack) -> dict[str, Any]:
    return {"name": registry.name_of(type(attack)), **attack.model_dump(mode="json")}


NestedAttack = Annotated[Attack, BeforeValidator(_built), PlainSerializer(_as_words, when_used="json")]
"""The type of a method's field that takes one of the project's attacks: its name, or a mapping with its parameters."""
