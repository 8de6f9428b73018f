"""The options of an evaluation: the threat model, the draws and the way to count.

A new option is one field of :class:`EvaluationOptions`. Cells, suite files and the command line take their fields from it.
This module imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.attacks.base.gradients.draws import EOTChoice
from robustbench_cli.attacks.base.norm import Norm

__all__ = ["Accounting", "EvaluationOptions", "Targeted"]


Targeted = Literal["no", "next", "random", "least-likely", "all"]
"""How a targeted attack chooses its target classes; ``"no"`` for an untargeted attack."""


Accounting = Literal["expected", "single-draw"]
"""What counts for a randomized model.

``"expected"`` is the expected accuracy over fresh draws. ``"single-draw"`` is how AutoAttack counts: the clean image and
every attack get one draw, and an image is broken as soon as one of these draws is wrong. An unlucky draw then counts as a
success of the attack, so this way is only for comparisons with figures that were counted so.
"""


def _radius(eps: Any) -> Any:
    """A radius that is text, such as ``"8/255"``, as a number."""
    return parse_eps(eps).value if isinstance(eps, str) else eps


class EvaluationOptions(BaseModel):
    """What an evaluation measures, besides the model, the images and the attack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: Norm | None = Field(None, description="Norm of the perturbation; the attack's first norm by default")
    eps: Annotated[float | None, BeforeValidator(_radius)] = Field(
        None, description="Radius on the [0, 1] pixel scale; without it a minimal-norm attack may move any distance"
    )
    targeted: Targeted = Field("no", description="How target classes are chosen; 'no' for an untargeted attack")
    eot: EOTChoice = Field(
        "auto", description="Draws of a randomized defense behind each gradient: a number, 'exact', 'frozen' or 'auto'"
    )
    repeats: int | None = Field(
        None, ge=1, description="Fresh draws that score each image of a randomized defense; 10 by default"
    )
    seed: int = Field(0, ge=0, description="Seed of the attack's random numbers and of all draws")
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="Floating point of the gradients; images are always scored in float32"
    )
    accounting: Accounting = Field(
        "expected", description="Count the expected accuracy over draws, or one draw per attack as AutoAttack does"
    )

    @property
    def is_targeted(self) -> bool:
        """Whether the attack has target classes."""
        return self.targeted != "no"
