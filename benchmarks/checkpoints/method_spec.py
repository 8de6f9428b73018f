"""An attack or a defense as data: its name and its parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, reduce
from operator import getitem
from typing import Any, Self
from weakref import WeakValueDictionary

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticSerializationError

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.frozen_model import FrozenModel
from robustbench_cli.core.registry import Registry
from robustbench_cli.core.settings import Settings

__all__ = ["MethodSpec", "canonical_json", "defense_label"]

canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""The canonical JSON of a value."""


class MethodSpec(FrozenModel):
    """An attack or a defense as data: its name and all its parameters, defaults included.

    Attributes:
        name: As a user types it: a registered name, ``package.module:object`` or ``path.py:object``.
        parameters: All fields of the method, as JSON values; without those that the method excludes at their defaults, because
            they are younger than its cells.
        changed: The names of the fields that differ from their defaults, for the label only; ``attack.steps`` for a field of
            a parameter that is itself a method.
        source: The sha256 of a user's own code; an edit makes another method.
        surrogates: The identities of the models in checkpoints among the parameters, by parameter; see
            :attr:`~.defended_model.DefendedModel.identity`. Commas separate those of an ensemble.
        formerly: The former names of renamed parameters, by their current names. The identity contains the former names,
            so that a rename changes no hash.
    """

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    changed: tuple[str, ...] = ()
    source: str | None = None
    surrogates: dict[str, str] = Field(default_factory=dict)
    formerly: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for what, keys in (("changed", self.changed), ("a surrogate", self.surrogates), ("renamed", self.formerly)):
            if unknown := [key for key in keys if not _is_parameter(key, self.parameters)]:
                raise ValueError(f"'{unknown[0]}' is called {what} and is no parameter of {self.name}")
        return self

    def shared(self) -> MethodSpec:
        """An equal instance, the same for all equal ones: a store has thousands of cells, and few methods."""
        # Unlike equality, the text tells 1 from 1.0 and from True.
        content = repr([getattr(self, name) for name in type(self).model_fields])
        return _instances.setdefault(content, self)

    @model_serializer(mode="wrap")
    def _without_empty_renames(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Most methods have no renamed parameter: their stored data stays as it was before there were renames."""
        data: dict[str, Any] = serialize(self)
        if not self.formerly:
            data.pop("formerly", None)
        return data

    @classmethod
    def of(
        cls, method: Settings, *, name: str, source: str | None = None, surrogates: Mapping[str, str] | None = None
    ) -> MethodSpec:
        """Turns a method into data.

        Args:
            method: The method.
            name: See :class:`MethodSpec`.
            source: See :class:`MethodSpec`.
            surrogates: See :class:`MethodSpec`.

        Raises:
            UserError: A parameter has no JSON form.
        """
        try:
            values = method.model_dump(mode="json")
        except PydanticSerializationError as error:
            raise UserError(
                f"{name} has a parameter that JSON cannot hold, so it has no name to store it by: {error}"
            ) from None
        return cls(
            name=name,
            parameters=values,
            changed=tuple(_changed(method)),
            source=source,
            surrogates=dict(surrogates or {}),
            formerly=dict(_renames(method)),
        )

    def renamed(self, kind: type[Settings]) -> MethodSpec:
        """The same method with the current names of its parameters, where a file has former ones.

        Args:
            kind: The class of the method.

        Raises:
            UserError: A parameter is there under both of its names.
        """
        former = {key: old for key, old in kind.former_names().items() if old in self.parameters}
        if not former:
            return self
        return self.model_copy(
            update={
                "parameters": kind.current_names(self.parameters, name=self.name, warn=False),
                "changed": tuple(
                    ".".join((kind.current_name(first), *rest)) for first, *rest in map(_parts, self.changed)
                ),
                "surrogates": kind.current_names(self.surrogates, name=self.name, warn=False),
                "formerly": {**self.formerly, **former},
            }
        )

    def build(self, registry: Registry, **loaded: Any) -> Any:
        """Builds the attack or the defense.

        Args:
            registry: The registry of its kind.
            **loaded: The loaded models that replace the files in :attr:`surrogates`.

        Raises:
            UserError: The name or a parameter is unknown, or a value is not allowed.
        """
        return registry.load(self.name).from_parameters({**self.parameters, **loaded}, name=self.name)

    @cached_property
    def label(self) -> str:
        """The name, with the parameters that differ from the defaults: ``hrs(channels=[10,10])``."""
        return self._label({})

    @cached_property
    def former_label(self) -> str:
        """The label by the former names of renamed parameters, which older suites and tables contain."""
        return self._label(self.formerly)

    def _label(self, names: Mapping[str, str]) -> str:
        """The label, with other names of some parameters."""
        if not self.changed:
            return self.name
        changed = {names.get(key, key): reduce(getitem, key.split("."), self.parameters) for key in self.changed}
        values = (f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in changed.items())
        return f"{self.name}({','.join(values)})".replace('"', "")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The content of its hash: the name and the parameters, and the content of a user's files instead of their paths."""
        name = self.name if self.source is None else self.name.rpartition(":")[2]
        parameters = _by_former_names({**self.parameters, **self.surrogates}, self.formerly)
        return {"name": name, "parameters": parameters, "source": self.source}

    @cached_property
    def canonical_identity(self) -> str:
        """The canonical JSON of :attr:`identity`."""
        return canonical_json(self.identity)


_instances: WeakValueDictionary[str, MethodSpec] = WeakValueDictionary()
"""The instances that :meth:`MethodSpec.shared` returned, by their content."""


def defense_label(specs: Iterable[MethodSpec], *, with_parameters: bool = True) -> str:
    """The label of a model's defenses, in order; ``none`` if it has none.

    Args:
        specs: The defenses.
        with_parameters: Whether the label has the parameters that differ from their defaults.
    """
    return "+".join(spec.label if with_parameters else spec.name for spec in specs) or "none"


def _parts(key: str) -> list[str]:
    return key.split(".")


def _by_former_names(parameters: Mapping[str, Any], formerly: Mapping[str, str]) -> dict[str, Any]:
    """The parameters by the names that they had before they were renamed.

    Args:
        parameters: Values by current name.
        formerly: See :class:`MethodSpec`.
    """
    if not formerly:
        return dict(parameters)
    former = {}
    for key, value in parameters.items():
        nested = {path.removeprefix(f"{key}."): old for path, old in formerly.items() if path.startswith(f"{key}.")}
        former[formerly.get(key, key)] = _by_former_names(value, nested) if nested else value
    return former


def _renames(method: Settings) -> Iterator[tuple[str, str]]:
    """The current and the former names of renamed parameters; those of an inner method follow its name and a dot."""
    yield from type(method).former_names().items()
    for key in type(method).model_fields:
        value = getattr(method, key)
        if isinstance(value, Settings):
            yield from ((f"{key}.{name}", former) for name, former in _renames(value))


def _is_parameter(key: str, parameters: Any) -> bool:
    """Whether a name is that of a parameter; the name of an inner method's parameter has dots."""
    for part in key.split("."):
        if not isinstance(parameters, dict) or part not in parameters:
            return False
        parameters = parameters[part]
    return True


def _changed(method: Settings) -> Iterator[str]:
    """The names of the parameters that differ from their defaults; those of an inner method follow a dot."""
    kind = type(method)
    required = {key: getattr(method, key) for key, field in kind.model_fields.items() if field.is_required()}
    default = kind(**required)
    for key in kind.model_fields:
        value = getattr(method, key)
        if key not in required and value == getattr(default, key):
            continue
        if isinstance(value, Settings):
            yield f"{key}.name"
            yield from (f"{key}.{inner}" for inner in _changed(value))
        else:
            yield key
