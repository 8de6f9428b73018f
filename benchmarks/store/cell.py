"""A cell: one model, defense, attack, threat model, data slice and seed, with its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from robustbench_cli.attacks.base.gradients.draws import Draws
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec, defense_label
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions, Targeted

__all__ = ["Cell", "OnlyIf", "content_hash"]


OnlyIf = Literal["blinded"]
"""The condition of an attack in a cascade: ``"blinded"`` runs it only if earlier attacks had masked gradients and no other
attack broke through; see :func:`~robustbench_cli.benchmarks.store.worst_case_flags.worst_case_flags`.
"""


def content_hash(identity: Mapping[str, Any]) -> str:
    """The first 20 hexadecimal digits of the sha256 of the canonical JSON.

    Args:
        identity: Everything that a result depends on, as JSON values.
    """
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]


class _Evaluated(BaseModel):
    """What is evaluated: the images, the defended model and the attack. These fields come first in a cell's JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    data: str = Field(description="sha256 of the evaluated images and labels")
    n: int
    model: str
    checkpoint: str = Field(description="sha256 of the weights and of the specification of their model")
    defenses: tuple[MethodSpec, ...]
    attack: MethodSpec


class Cell(EvaluationOptions, _Evaluated):
    """The unit that is run, stored, resumed and distributed. Plain data.

    A cell fixes the evaluation options that depend on the model and the attack: the norm, the draws behind a gradient and
    the number of repeats. ``eps`` is ``None`` where the successes of a minimal-norm attack count at any distance.
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
        content = self.model_dump(mode="json", exclude={"dataset", "model", "attack", "defenses", "cascade"})
        for name, field in type(self).model_fields.items():
            if name in content and not field.is_required() and content[name] == field.default:
                del content[name]
        content |= {"attack": self.attack.identity, "defenses": [defense.identity for defense in self.defenses]}
        return content_hash({"version": 1, **content})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values in some fields. Its :attr:`id` is computed anew."""
        copied = super().model_copy(update=update, deep=deep)
        # Pydantic copies cached properties too.
        copied.__dict__.pop("id", None)
        return copied

    @property
    def attack_label(self) -> str:
        """The attack's label, with a plus sign in a cascade, and with a precision that the user chose."""
        attack = self.attack
        if self.precision != "tf32":
            parameters = {**attack.parameters, "precision": self.precision}
            attack = attack.model_copy(update={"parameters": parameters, "changed": (*attack.changed, "precision")})
        return f"+{attack.label}" if self.cascade else attack.label

    @property
    def defense(self) -> str:
        """The label of the defenses, in order."""
        return defense_label(self.defenses)
