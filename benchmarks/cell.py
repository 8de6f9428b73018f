"""A cell: one model, defense, attack, threat, data slice and seed; and its identity."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import getitem
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticSerializationError

from robustbench_cli.attacks.base.draws import Draws
from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.attacks.base.method import Method
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.registry import Registry

__all__ = ["Accounting", "Cell", "Eps", "MethodSpec", "OnlyIf", "Targeted", "parse_eps"]

Targeted = Literal["no", "next", "random", "least-likely", "all"]

Accounting = Literal["expected", "single-draw"]
"""What counts of a randomized model: its expected accuracy over fresh draws, or one draw on the clean image and one
after each attack, any of which makes the image fall. The latter is how AutoAttack counts: it takes an unlucky draw for
an attack's success, and is there to compare with figures that were counted so.
"""

OnlyIf = Literal["blinded"]
"""The condition of an attack in a cascade: ``"blinded"`` runs it only where attacks before it were blinded and none of
the others broke through; see :func:`~robustbench_cli.benchmarks.headline.headline_flags`.
"""


@dataclass(frozen=True)
class Eps:
    """A radius: the number, and the words it was given in (``8/255``)."""

    text: str
    value: float


def parse_eps(text: str) -> Eps:
    """Reads a radius >= 0 on the [0, 1] pixel scale, as a decimal number or a fraction.

    Raises:
        UserError: It is not a number, not finite, or negative.
    """
    words = str(text).strip()
    numerator, slash, denominator = words.partition("/")
    try:
        value = _number(numerator) / (_number(denominator) if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"eps is '{words}': give a number or a fraction, such as 0.03 or 8/255") from None
    if not math.isfinite(value) or value < 0:
        raise UserError(f"eps is '{words}': it must be 0 or more, and finite")
    if value == 0 and re.search("[1-9]", re.split("[eE]", numerator)[0]):
        raise UserError(f"eps is '{words}': that is too small for a number, give 0 or a larger one")
    # Not -0.0, which would be another cell.
    return Eps(words, abs(value))


def _number(words: str) -> float:
    """Reads a decimal number; not 1_0 or other scripts' digits, which Python takes too, and a reader takes for else."""
    if not re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*|nan|inf", words):
        raise ValueError(words)
    return float(words)


class MethodSpec(BaseModel):
    """An attack or a defense as data: its name and all its parameters, defaults included.

    Attributes:
        name: As a user types it: registered, ``package.module:object`` or ``path.py:object``.
        parameters: Every field of the method, as JSON values.
        changed: The names of those that differ from the defaults, ``attack.steps`` for one of a parameter that is a
            method itself; for the label only.
        source: The sha256 of a user's own code, since their edits make another method of it.
        surrogates: By the names of the parameters that are files of checkpoints: what models these hold, as
            :attr:`~.subject.Subject.identity` says it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    changed: tuple[str, ...] = ()
    source: str | None = None
    surrogates: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _all_are_parameters(self) -> Self:
        for what, keys in (("changed", self.changed), ("a surrogate", self.surrogates)):
            if unknown := [key for key in keys if not _leads_to_one(key, self.parameters)]:
                raise ValueError(f"'{unknown[0]}' is called {what} and is no parameter of {self.name}")
        return self

    @classmethod
    def of(
        cls, method: Method, *, name: str, source: str | None = None, surrogates: Mapping[str, str] | None = None
    ) -> MethodSpec:
        """A method as plain data.

        Args:
            method: The method.
            name: See :class:`MethodSpec`.
            source: See :class:`MethodSpec`.
            surrogates: See :class:`MethodSpec`.

        Raises:
            UserError: A parameter is nothing that JSON holds.
        """
        try:
            values = method.model_dump(mode="json")
        except PydanticSerializationError as error:
            raise UserError(
                f"{name} has a parameter that JSON cannot hold, so it has no name to store it by: {error}"
            ) from None
        changed = tuple(_changed(method))
        return cls(name=name, parameters=values, changed=changed, source=source, surrogates=dict(surrogates or {}))

    def build(self, registry: Registry, **loaded: Any) -> Any:
        """The attack or the defense itself.

        Args:
            registry: That of its kind.
            **loaded: The models in the place of the files in :attr:`surrogates`.

        Raises:
            UserError: The name or a parameter is unknown, or a value not allowed.
        """
        return registry.load(self.name).from_parameters({**self.parameters, **loaded}, name=self.name)

    @property
    def label(self) -> str:
        """The name, with the parameters that differ from the defaults: ``hrs(channels=[10,10])``."""
        if not self.changed:
            return self.name
        found = {key: reduce(getitem, key.split("."), self.parameters) for key in self.changed}
        values = (f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in found.items())
        return f"{self.name}({','.join(values)})".replace('"', "")

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this method: not the paths of a user's files, whose content counts."""
        name = self.name if self.source is None else self.name.rpartition(":")[2]
        return {"name": name, "parameters": {**self.parameters, **self.surrogates}, "source": self.source}


def _leads_to_one(key: str, parameters: Any) -> bool:
    """Whether a name, with dots before those of an inner method, is one of a parameter."""
    for part in key.split("."):
        if not isinstance(parameters, dict) or part not in parameters:
            return False
        parameters = parameters[part]
    return True


def _changed(method: Method) -> Iterator[str]:
    """The names of the parameters that differ from the defaults; of one that is a method, its own after a dot."""
    kind = type(method)
    required = {key: getattr(method, key) for key, field in kind.model_fields.items() if field.is_required()}
    usual = kind(**required)
    for key in kind.model_fields:
        value = getattr(method, key)
        if key not in required and value == getattr(usual, key):
            continue
        if isinstance(value, Method):
            yield f"{key}.name"
            yield from (f"{key}.{each}" for each in _changed(value))
        else:
            yield key


class Cell(BaseModel):
    """The unit that is run, stored, resumed and distributed. Plain data.

    ``eps`` is ``None`` where a minimal-norm attack's successes count at any distance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    data: str = Field(description="sha256 of the evaluated images and labels")
    n: int
    model: str
    checkpoint: str = Field(description="sha256 of the weights and of what model they are the weights of")
    defenses: tuple[MethodSpec, ...]
    attack: MethodSpec
    norm: Norm
    eps: float | None
    targeted: Targeted
    eot: Draws
    repeats: int
    seed: int
    precision: Literal["float32", "bf16"] = "float32"
    accounting: Accounting = "expected"
    after: str | None = Field(None, description="the cell whose fallen images are not attacked again")
    cascade: bool = Field(
        False, description="whether that cell is of another attack, which leaves its images to this one"
    )

    only_if: OnlyIf | None = Field(
        None, description="what has to hold of the cells that it goes on from; otherwise their result is its own"
    )

    @cached_property
    def id(self) -> str:
        """The content hash: 20 hexadecimal digits of the sha256 of the versioned canonical JSON.

        Names that do not change what is computed are left out: how the data set and the model were called, which
        parameters differ from the defaults, and where a user's files lie. A field that a cell does not use is left out
        too, so that a new one makes no other cells of the old ones.
        """
        content = self.model_dump(mode="json", exclude={"dataset", "model", "attack", "defenses", "cascade"})
        for name, unused in (("after", None), ("precision", "float32"), ("accounting", "expected"), ("only_if", None)):
            if content[name] == unused:
                del content[name]
        content |= {"attack": self.attack.identity, "defenses": [defense.identity for defense in self.defenses]}
        canonical = json.dumps({"version": 1, **content}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:20]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, with the ``update`` in its fields: another cell where that changes what is computed."""
        copied = super().model_copy(update=update, deep=deep)
        # Pydantic copies what has been computed with the fields.
        copied.__dict__.pop("id", None)
        return copied

    @property
    def attack_label(self) -> str:
        """The attack's label, after a plus sign where earlier attacks have left it what they could not break.

        A precision that is not the usual one stands beside the attack's parameters.
        """
        method = self.attack
        if self.precision != "float32":
            named = {"parameters": {**method.parameters, "precision": self.precision}}
            method = method.model_copy(update=named | {"changed": (*method.changed, "precision")})
        return f"+{method.label}" if self.cascade else method.label

    @property
    def defense(self) -> str:
        """The label of the defenses, in order."""
        return "+".join(method.label for method in self.defenses) or "none"
