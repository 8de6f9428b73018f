"""A cell: one model, defense, attack, threat, data slice and seed; and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from robustbench_cli.attacks.base.gradients.draws import Draws
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.options import Accounting, Targeted

__all__ = ["Cell", "OnlyIf"]


OnlyIf = Literal["blinded"]
"""The condition of an attack in a cascade: ``"blinded"`` runs it only where attacks before it were blinded and none of
the others broke through; see :func:`~robustbench_cli.benchmarks.store.worst_case_flags.worst_case_flags`.
"""


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
