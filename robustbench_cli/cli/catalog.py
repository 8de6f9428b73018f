"""The catalog of named things: those of all kinds in :data:`KINDS`, and the parameters of the training.

The names and summaries are read from source files without an import of torch; a whole card imports its class.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from robustbench_cli.benchmarks.suites import names as suites
from robustbench_cli.cli import console
from robustbench_cli.core.class_source import ClassSource, read_class, read_exported

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from robustbench_cli.attacks.base.attack import Attack
    from robustbench_cli.core.registry import Registry
    from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe

__all__ = ["KINDS", "SHOWN", "card", "names", "summaries"]

_PACKAGES = {
    "attack": "robustbench_cli.attacks",
    "defense": "robustbench_cli.defenses",
    "dataset": "robustbench_cli.benchmarks.datasets",
    "model": "robustbench_cli.benchmarks.models",
    "corruption": "robustbench_cli.benchmarks.corruptions",
    "augmentation": "robustbench_cli.defenses.base.training.augmentations",
    "recipe": "robustbench_cli.defenses.base.training.recipes",
    "check": "robustbench_cli.benchmarks.evaluation.checks",
}

KINDS = ("attack", "defense", "dataset", "model", "corruption", "augmentation", "recipe", "suite", "check")
"""The kinds of things that have names."""

SHOWN = (*KINDS, "training")
"""What ``advdef show`` can show: ``training`` without a name are the parameters of the training, with a name a recipe."""

_OUTSIDE_REGISTRIES = {
    ("attack", "reprogramming"): ("robustbench_cli.benchmarks.reprogramming.program", "Reprogramming"),
    ("training", "train"): ("robustbench_cli.defenses.base.training.recipe", "Recipe"),
}
"""The module and class of things that are in no registry: a command of their own runs them."""

_ATTRIBUTES = (
    "paper",
    "norms",
    "access",
    "minimal_norm",
    "family",
    "trained",
    "attacked_by",
    "classes",
    "shape",
    "argument_name",
    "epochs",
    "eps",
    "augmentations",
    "text",
    "severity",
    "raised_when",
    "why",
    "remedy",
    "source",
)
"""The class attributes that a card shows."""

_LIMITS = {
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "multiple_of": "a multiple of",
    "min_length": "length >=",
    "max_length": "length <=",
}


def names(kind: str) -> list[str]:
    """The names of a kind, sorted; a family of names, such as the attacks of another library, ends with a colon.

    Args:
        kind: One of :data:`KINDS`.
    """
    if kind == "suite":
        return suites.suite_names()
    registry = _registry_of(kind)
    outside = [name for other, name in _OUTSIDE_REGISTRIES if other == kind]
    return sorted([*registry.names(), *(f"{family}:" for family in registry.families), *outside])


def require_known(kind: str, name: str) -> None:
    """Refuses an unknown name, without an import of torch.

    Args:
        kind: One of :data:`KINDS`.
        name: As the user wrote it.

    Raises:
        UserError: It is neither a name of the kind nor the path of a user's own.
    """
    if kind == "suite":
        suites.require_known(name)
    elif (kind, name) not in _OUTSIDE_REGISTRIES:
        _registry_of(kind).require_known(name)


def summaries(kind: str) -> Iterator[dict[str, Any]]:
    """Describes everything of a kind in one line each.

    A class or suite that cannot be loaded gets a warning and is left out, so that the others are listed.

    Args:
        kind: One of :data:`KINDS`.

    Yields:
        ``name`` and ``summary``; for an attack also its ``norms``, its ``access`` to the model and its ``type``; for a
        check its ``severity``; for a defense its ``family``; for a corruption its ``family`` and its ``group``.
    """
    for name in names(kind):
        try:
            yield _summarized(kind, name)
        except Exception as error:  # noqa: BLE001 - any error: the others can be listed
            console.warn(f"{kind} {name} cannot be loaded: {type(error).__name__}: {error}")


def _summarized(kind: str, name: str) -> dict[str, Any]:
    if kind == "suite":
        from robustbench_cli.benchmarks.suites.load import read_suite

        return {"name": name, "summary": _sentences(read_suite(name).description)[0]}
    source = _source(kind, name)
    if kind == "check":
        return {"name": name, "severity": source.constants["severity"], "summary": source.constants["text"]}
    summary = _plain(source.docstring).partition("\n")[0]
    if kind == "corruption":
        return {"name": name, "family": source.constants.get("family"), "group": _group(name), "summary": summary}
    if kind == "defense":
        return {"name": name, "family": source.constants.get("family"), "summary": summary}
    if kind != "attack":
        return {"name": name, "summary": summary}
    facts = _attack_facts(source.constants)
    return {"name": name, **{key: facts.get(key) for key in ("norms", "access", "type")}, "summary": summary}


def _group(corruption: str) -> str:
    """Whether a corruption is one of the benchmark, whose mean is reported, or an extra one."""
    from robustbench_cli.benchmarks.corruptions import BENCHMARK

    return "benchmark" if corruption in BENCHMARK else "extra"


def _source(kind: str, name: str) -> ClassSource:
    """The docstring and constants of a class: from its source file, or from an import where that does not suffice."""
    if (kind, name) in _OUTSIDE_REGISTRIES:
        source = read_class(*_OUTSIDE_REGISTRIES[kind, name])
    else:
        module = _registry_of(kind).module_of(name.removesuffix(":"))
        source = None if module is None else read_exported(module)
    if source is not None and source.docstring:
        return source
    target = _load(kind, name)
    return ClassSource(target.__doc__ or "", {key: getattr(target, key, None) for key in _ATTRIBUTES})


def _attack_facts(constants: Mapping[str, Any]) -> dict[str, Any]:
    """The norms of an attack, its access to the model and its type."""
    facts: dict[str, Any] = {}
    if constants.get("norms"):
        facts["norms"] = list(constants["norms"])
        facts["access"] = constants.get("access")
        facts["type"] = "minimal-norm" if constants.get("minimal_norm") else "fixed-radius"
    return facts


def _registry_of(kind: str) -> Registry:
    registry: Registry = importlib.import_module(_PACKAGES[kind]).registry
    return registry


def _load(kind: str, name: str) -> Any:
    if (kind, name) in _OUTSIDE_REGISTRIES:
        module, attribute = _OUTSIDE_REGISTRIES[kind, name]
        return getattr(importlib.import_module(module), attribute)
    registry = _registry_of(kind)
    return registry.find(name)[0] if _is_family(kind, name) else registry.load(name)


def _is_family(kind: str, name: str) -> bool:
    """Whether a name is that of a family, with its colon."""
    return kind in _PACKAGES and name.endswith(":") and name[:-1] in _registry_of(kind).families


def _summary(target: Any) -> str:
    """The first line of a class's own docstring."""
    return _plain(target.__doc__ or "").partition("\n")[0]


def _sentences(text: str) -> tuple[str, str]:
    """The first sentence and the others. A capital begins a sentence, so that "et al. (" ends none."""
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
        "corruptions": [entry.model_dump(exclude_unset=True) for group in suite.groups for entry in group.corruptions],
    }


def card(kind: str, name: str) -> dict[str, Any]:
    """Describes one entry of the catalog in full, as JSON values.

    Args:
        kind: One of :data:`SHOWN`.
        name: The name as a user types it, with or without an argument behind a colon; ``train`` for the training.

    Raises:
        UserError: The name is unknown.
    """
    if kind == "suite":
        return _suite_card(name)
    target = _load(kind, name)
    entry: dict[str, Any] = {"kind": kind, "name": name, "summary": _summary(target)}
    description = _plain(target.__doc__ or "").partition("\n")[2]
    # The sections of a docstring are for Python users.
    entry["description"] = re.split(r"^(?:Args|Attributes|Raises|Returns):$", description, flags=re.MULTILINE)[
        0
    ].strip()
    for attribute in _ATTRIBUTES:
        value = getattr(target, attribute, None)
        # On a class, a property is not yet a value.
        if value is not None and value != "" and not callable(value) and not isinstance(value, property):
            entry[attribute] = list(value) if isinstance(value, tuple) else value
    if kind == "check":
        return _check_card(entry)
    if kind == "recipe":
        return _recipe_card(entry, target)
    if kind == "corruption":
        entry["group"] = _group(name)
    if _is_family(kind, name):
        return entry | {"members": sorted(target().members())}
    if kind == "attack":
        entry |= _attack_facts({key: getattr(target, key, None) for key in ("norms", "access", "minimal_norm")})
        cost = _cost(target)
        entry |= {} if cost is None else {"cost": cost}
    if hasattr(target, "model_fields"):
        entry["parameters"] = [_parameter(key, field) for key, field in target.model_fields.items()]
    return entry


def _recipe_card(entry: dict[str, Any], recipe: type[NamedRecipe]) -> dict[str, Any]:
    """The card of a recipe: its values with their sources; the defaults of a training for a recipe without values."""
    # Data of another shape may fit too.
    del entry["shape"]
    if not recipe.values:
        return entry | {"parameters": card("training", "train")["parameters"]}
    rows = [(key, "", entry) for key, entry in recipe.values.items()]
    rows += [(key, name, entry) for name, entries in recipe.for_dataset.items() for key, entry in entries.items()]
    return entry | {
        "code": recipe.code,
        "defenses": list(recipe.defenses),
        "datasets": list(recipe.datasets),
        "departures": list(recipe.departures),
        "values": [
            {"name": key, "dataset": name, "value": value, "source": source} for key, name, (value, source) in rows
        ],
    }


def _check_card(entry: dict[str, Any]) -> dict[str, Any]:
    """The card of a check: the meaning of its flag is the summary, and its docstring says how it is measured."""
    description = "\n\n".join(text for text in (entry["summary"], entry["description"]) if text)
    page: dict[str, Any] = {
        key: entry[key] for key in ("severity", "raised_when", "why", "remedy", "source") if key in entry
    }
    return {"kind": "check", "name": entry["name"], "summary": entry["text"], "description": description, **page}


def _cost(attack: type[Attack]) -> dict[str, Any] | None:
    """Passes per unbroken image of ten classes; ``None`` if they are unknown or a parameter has no default.

    For an attack that does no targeted restarts by default, ``restarted`` has those with two.
    """
    from dataclasses import asdict

    from robustbench_cli.attacks.base.attack import Attack
    from robustbench_cli.benchmarks.evaluation.cost import passes

    if not issubclass(attack, Attack) or any(entry.is_required() for entry in attack.model_fields.values()):
        return None
    cost = passes(attack())
    if cost is None:
        return None
    restarts = attack.model_fields.get("targeted_restarts")
    if restarts is None or restarts.default:
        return asdict(cost)
    restarted = passes(attack.from_parameters({"targeted_restarts": 2}, name=attack.__name__))
    return asdict(cost) | ({} if restarted is None else {"restarted": asdict(restarted)})


def _parameter(name: str, field: FieldInfo) -> dict[str, Any]:
    from pydantic_core import to_jsonable_python

    parameter = {"name": name, "type": _type(field.annotation), "required": field.is_required()}
    if not field.is_required():
        parameter["default"] = to_jsonable_python(
            field.get_default(call_default_factory=True, validated_data={}), fallback=repr
        )
    parameter["constraints"] = _limits(field.metadata)
    parameter["description"] = field.description or ""
    return parameter


def _type(annotation: Any) -> str:
    """A type in a user's notation: ``list[int >= 1]``, ``adam | sgd``, ``float | null``."""
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
        f"{text} {getattr(entry, key)}"
        for entry in metadata
        for key, text in _LIMITS.items()
        if getattr(entry, key, None) is not None
    ]


def _plain(docstring: str) -> str:
    """A docstring without the markup of a documentation page."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", inspect.cleandoc(docstring))
    return re.sub(r"::$", ":", text.replace("``", ""), flags=re.MULTILINE)
