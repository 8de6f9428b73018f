"""The type of an attack's parameter that is itself an attack."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.core.errors import UserError

__all__ = ["NestedAttack"]


def _build(value: Any) -> Any:
    """Builds the attack from its name, or from a mapping of its name and parameters; other values stay as they are."""
    config = {"name": value} if isinstance(value, str) else value
    if not isinstance(config, dict):
        return config
    name = config.get("name")
    if not isinstance(name, str):
        raise UserError("give the name of an attack, alone or as in {name: di-fgsm, steps: 20}")
    # A cell's identity covers the user's own code only for the outer attack.
    if ":" in name or registry.source_of(name) is not None:
        raise UserError("give one of the project's own attacks, such as mi-fgsm")
    parameters = {key: parameter for key, parameter in config.items() if key != "name"}
    return registry.load(name).from_parameters(parameters, name=name)


def _to_config(attack: Attack) -> dict[str, Any]:
    return {"name": registry.name_of(type(attack)), **attack.model_dump(mode="json")}


NestedAttack = Annotated[Attack, BeforeValidator(_build), PlainSerializer(_to_config, when_used="json")]
"""The type of a field that takes one of the project's attacks: its name, or a mapping with its name and parameters."""
