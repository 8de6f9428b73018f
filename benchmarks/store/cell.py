"""A cell: one model, defense, attack, threat model, data slice and seed, with its identity."""

from __future__ import annotations

import hashlib
import marshal
import sys
from collections.abc import Hashable, Mapping
from functools import cache, cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from robustbench_cli.attacks.base.gradients.draws import Draws
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec, canonical_json, defense_label
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions, Targeted
from robustbench_cli.core.frozen_model import FrozenModel, share_field_names

__all__ = ["Cell", "OnlyIf", "content_hash", "corruption_label"]


_MOST_SEVERE = 5

OnlyIf = Literal["blinded"]
"""The condition of an attack in a cascade: ``"blinded"`` runs it only if earlier attacks had masked gradients and no other
attack broke through; see :func:`~robustbench_cli.benchmarks.store.worst_case_flags.worst_case_flags`.
"""


def corruption_label(corruption: MethodSpec) -> str:
    """The label of a corruption without its severity, which has a column of its own."""
    changed = tuple(name for name in corruption.changed if name != "severity")
    return corruption.model_copy(update={"changed": changed}).label


def _hash(canonical: str) -> str:
    """The first 20 hexadecimal digits of the sha256 of a canonical JSON."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]


def content_hash(identity: Mapping[str, Any]) -> str:
    """The first 20 hexadecimal digits of the sha256 of the canonical JSON.

    Args:
        identity: Everything that a result depends on, as JSON values.
    """
    return _hash(canonical_json(identity))


_SharedText = Annotated[str, AfterValidator(sys.intern)]


def _shared_spec(data: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> MethodSpec:
    """The instance for a method, the same for all equal ones; equal data of files are validated once."""
    if isinstance(data, MethodSpec):
        return data.shared()
    if info.mode != "json":
        made: MethodSpec = validate(data).shared()
        return made
    # Unlike equality, these bytes tell 1 from 1.0 and from True. In version 2 they depend on nothing but the values.
    content = marshal.dumps(data, 2)
    spec = _specs.get(content)
    if spec is None:
        spec = validate(data).shared()
        if len(_specs) == _MOST_SPECS:
            _specs.clear()
        _specs[content] = spec
    return spec


_MOST_SPECS = 1024
"""The most methods that are kept: a store has few, but a file from elsewhere can name any number."""

_specs: dict[bytes, MethodSpec] = {}
"""Methods that were validated, by their data. ``store verify`` forgets each cell before it reads the next one."""

_SharedSpec = Annotated[MethodSpec, WrapValidator(_shared_spec)]


class _Evaluated(FrozenModel):
    """What is evaluated: the images, the defended model and the attack. These fields come first in a cell's JSON."""

    dataset: str
    data: _SharedText = Field(description="sha256 of the evaluated images and labels")
    n: int
    model: str
    checkpoint: _SharedText = Field(description="sha256 of the weights and of the specification of their model")
    defenses: tuple[_SharedSpec, ...]
    attack: _SharedSpec
    corruption: _SharedSpec | None = Field(None, description="what changes the images before the attack")


_NOT_HASHED = {"dataset", "model", "attack", "corruption", "defenses", "cascade"}
"""Fields whose values are no part of a cell's identity as they are."""


@cache
def _defaults(kind: type[Cell]) -> dict[str, Any]:
    """The defaults of the fields that are part of a cell's identity only where they have another value."""
    fields = kind.model_fields.items()
    return {name: field.default for name, field in fields if not field.is_required() and name not in _NOT_HASHED}


@cache
def _hashed(kind: type[Cell]) -> tuple[str, ...]:
    """The fields whose values, all of them numbers or texts, are part of a cell's identity as they are."""
    return tuple(name for name in kind.model_fields if name not in _NOT_HASHED)


_NO_DEFAULT = object()


class Cell(EvaluationOptions, _Evaluated):
    """The unit that is run, stored, resumed and distributed. Plain data.

    A cell fixes the evaluation options that depend on the model and the attack: the norm, the draws behind a gradient and
    the number of repeats. ``data`` is the hash of the images before a corruption that is computed, and of the corrupted
    images where they are read from published files. ``eps`` is ``None`` where the successes of a minimal-norm attack count at any distance.
    """

    norm: Norm
    eps: float | None
    targeted: Targeted
    eot: Draws
    repeats: int
    seed: int
    after: str | None = Field(None, description="the earlier cell whose broken images are not attacked again")
    cascade: bool = Field(
        False, description="whether the earlier cell is of another attack, which leaves its unbroken images to this one"
    )
    only_if: OnlyIf | None = Field(
        None,
        description="condition on the earlier cells; where it does not hold, their result is the result of this cell",
    )

    @model_validator(mode="after")
    def _share_field_names(self) -> Self:
        severity = 1 if self.corruption is None else self.corruption.parameters.get("severity")
        if not (isinstance(severity, int) and 1 <= severity <= _MOST_SEVERE):
            raise ValueError(f"the severity of the corruption is {severity!r:.80}, not 1 to {_MOST_SEVERE}")
        share_field_names(self)
        return self

    @property
    def scored_images(self) -> str:
        """Equal for cells whose outcomes are of the same images in the same order.

        A cell that stops when its accuracy is decided has a sample of its own.
        """
        return self.data if self.stop_when_decided is None else f"{self.data} {self.id}"

    @property
    def slice_and_norm(self) -> Hashable:
        """Equal for cells of the same images, with the same corruption, in the same norm: of one model, they have one verdict."""
        corruption = None if self.corruption is None else self.corruption.canonical_identity
        return self.scored_images, corruption, self.norm

    @property
    def evaluation_options(self) -> EvaluationOptions:
        """The options of its evaluation alone."""
        return EvaluationOptions.model_construct(
            **{name: getattr(self, name) for name in EvaluationOptions.model_fields}
        )

    @cached_property
    def id(self) -> str:
        """The content hash of the versioned identity; see :func:`content_hash`.

        Names that do not change the result are not part of it: those of the data set and the model, which parameters
        differ from their defaults, and the paths of a user's files. Fields at their defaults are not part of it either,
        so that a new field with a default leaves the identities of existing cells as they are.
        """
        defaults = _defaults(type(self))
        values = self.__dict__
        content = {
            name: value for name in _hashed(type(self)) if (value := values[name]) != defaults.get(name, _NO_DEFAULT)
        }
        if self.corruption is not None:
            content["corruption"] = self.corruption.identity
        text = canonical_json({**content, "version": 1, "attack": None, "defenses": None})
        # Many cells share their methods, which have most of the text: content_hash would encode them for each cell.
        defenses = ",".join(defense.canonical_identity for defense in self.defenses)
        # No other text is equal: the values are no objects, and quotes inside of strings are escaped.
        before, _, after = text.partition('"defenses":null')
        before = before.replace('"attack":null', f'"attack":{self.attack.canonical_identity}')
        return _hash(f'{before}"defenses":[{defenses}]{after}')

    @property
    def attack_label(self) -> str:
        """The attack's label, with a plus sign in a cascade, and with a precision that the user chose."""
        attack = self.attack
        if self.precision != "tf32":
            parameters = {**attack.parameters, "precision": self.precision}
            attack = attack.model_copy(update={"parameters": parameters, "changed": (*attack.changed, "precision")})
        return f"+{attack.label}" if self.cascade else attack.label

    @property
    def severity(self) -> int | None:
        """The severity of the corruption; ``None`` without one."""
        return None if self.corruption is None else int(self.corruption.parameters["severity"])

    @property
    def corruption_label(self) -> str | None:
        """The corruption's label without its severity; ``None`` without one."""
        return None if self.corruption is None else corruption_label(self.corruption)

    @property
    def defense(self) -> str:
        """The label of the defenses, in order."""
        return defense_label(self.defenses)
