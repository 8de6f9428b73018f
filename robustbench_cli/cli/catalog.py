"""The kinds of named things, and what their classes tell about themselves: their docstrings, fields and attributes."""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from robustbench_cli.cli import console

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from robustbench_cli.attacks.base.attack import Attack
    from robustbench_cli.core.registry import Registry

__all__ = ["KINDS", "card", "summaries"]

_PACKAGES = {
    "attack": "robustbench_cli.attacks",
    "defense": "robustbench_cli.defenses",
    "dataset": "robustbench_cli.benchmarks.datasets",
    "model": "robustbench_cli.benchmarks.models",
}
KINDS = (*_PACKAGES, "suite")

_BY_OTHER_COMMANDS = {("attack", "reprogramming"): ("robustbench_cli.benchmarks.reprogramming.run", "Reprogramming")}
"""What has no place in a registry, since a command of its own runs it: its module and class."""

_LIMITS = {
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "multiple_of": "a multiple of",
    "min_length": "length >=",
    "max_length": "length <=",
}


def summaries(kind: str) -> Iterator[tuple[str, str]]:
    """The names of a kind, one of :data:`KINDS`, each with a line on what it is.

    One that is broken is warned of and left out: it must not hide the others.
    """
    if kind == "suite":
        from robustbench_cli.benchmarks.suites.load import read_suite, suite_names

        yield from ((name, _sentences(read_suite(name).description)[0]) for name in suite_names())
        return
    names = [*_registry_of(kind).names(), *(name for other, name in _BY_OTHER_COMMANDS if other == kind)]
    for name in sorted(names):
        try:
            yield name, _summary(_load(kind, name))
        except Exception as error:  # noqa: BLE001 - whatever it is, the others can be named
            console.warn(f"{kind} {name} cannot be loaded: {type(error).__name__}: {error}")


def _registry_of(kind: str) -> Registry:
    registry: Registry = importlib.import_module(_PACKAGES[kind]).registry
    return registry


def _load(kind: str, name: str) -> Any:
    if (kind, name) in _BY_OTHER_COMMANDS:
        module, attribute = _BY_OTHER_COMMANDS[kind, name]
        return getattr(importlib.import_module(module), attribute)
    return _registry_of(kind).load(name)


def _summary(thing: Any) -> str:
    """The first line of the docstring; nothing where there is only an inherited one."""
    return _plain(thing.__doc__ or "").partition("\n")[0]


def _sentences(text: str) -> tuple[str, str]:
    """The first sentence and the others: a capital begins one, so that "et al. (" ends none."""
    first, *others = re.split(r"(?<=\.) (?=[A-Z\"])", text, maxsplit=1)
    return first.rstrip(".") + ".", "".join(others)


def _suite_card(name: str) -> dict[str, Any]:
    from robustbench_cli.benchmarks.suites.load import read_suite

    suite = read_suite(name)
    summary, description = _sentences(suite.description)
    attacks = [member.model_dump(exclude_none=True) for member in suite.entries]
    return {
        "kind": "suite",
        "name": name,
        "summary": summary,
        "description": description,
        "cascade": suite.cascade,
        "attacks": attacks,
    }


def card(kind: str, name: str) -> dict[str, Any]:
    """All that is known of an attack, a defense, a data set, a model or a suite, as JSON values.

    Args:
        kind: One of :data:`KINDS`.
        name: As a user types it; what follows the colon of ``npz:PATH`` is of no account.

    Raises:
        UserError: There is no such thing.
    """
    if kind == "suite":
        return _suite_card(name)
    thing = _load(kind, name)
    told: dict[str, Any] = {"kind": kind, "name": name, "summary": _summary(thing)}
    described = _plain(thing.__doc__ or "").partition("\n")[2]
    # What follows is for who calls the class from Python.
    told["description"] = re.split(r"^(?:Args|Attributes|Raises|Returns):$", described, flags=re.MULTILINE)[0].strip()
    for attribute in (
        "paper",
        "norms",
        "minimal_norm",
        "trained",
        "attacked_by",
        "classes",
        "shape",
        "argument_name",
        "epochs",
        "eps",
    ):
        value = getattr(thing, attribute, None)
        # On a class, a property is not yet a value.
        if value is not None and value != "" and not callable(value) and not isinstance(value, property):
            told[attribute] = list(value) if isinstance(value, tuple) else value
    if kind == "attack" and (cost := _cost(thing)) is not None:
        told["cost"] = cost
    if hasattr(thing, "model_fields"):
        told["parameters"] = [_parameter(key, field) for key, field in thing.model_fields.items()]
    return told


def _cost(attack: type[Attack]) -> dict[str, int] | None:
    """Passes for an image that stands, with the attack's defaults; ``None`` where it cannot do with those."""
    from dataclasses import asdict

    from robustbench_cli.attacks.base.attack import Attack
    from robustbench_cli.benchmarks.evaluation.cost import passes

    if not issubclass(attack, Attack) or any(field.is_required() for field in attack.model_fields.values()):
        return None
    return asdict(passes(attack()))


def _parameter(name: str, field: FieldInfo) -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    told = {"name": name, "type": _type(field.annotation), "required": field.is_required()}
    if not field.is_required():
        told["default"] = to_jsonable_python(
            field.get_default(call_default_factory=True, validated_data={}), fallback=repr
        )
    told["constraints"] = _limits(field.metadata)
    told["description"] = field.description or ""
    return told


def _type(annotation: Any) -> str:
    """A type as a user would write down what it allows: ``list[int >= 1]``, ``adam | sgd``, ``float | null``."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Annotated:
        return " ".join([_type(parts[0]), *_limits(parts[1:])])
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in {typing.Union, types.UnionType}:
        return " | ".join(_type(part) for part in parts)
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if part is ... else _type(part) for part in parts)}]"
    return getattr(annotation, "__name__", str(annotation))


def _limits(metadata: typing.Iterable[Any]) -> list[str]:
    return [
        f"{words} {getattr(each, key)}"
        for each in metadata
        for key, words in _LIMITS.items()
        if getattr(each, key, None) is not None
    ]


def _plain(docstring: str) -> str:
    """A docstring without the marks that are meant for a documentation page."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", inspect.cleandoc(docstring))
    return text.replace("``", "")
