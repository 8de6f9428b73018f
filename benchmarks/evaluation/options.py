"""The options of an evaluation: the threat model, the draws and the way to count. This module imports no torch.

A field of :class:`GridOptions` is an option of ``advdef attack``, a key and a dimension of a suite file, a part of a
cell's identity and an argument of ``evaluate``: adding one is adding one field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.attacks.base.gradients.draws import EOTChoice
from robustbench_cli.attacks.base.models.precision import Precision
from robustbench_cli.attacks.base.norm import Norm

__all__ = ["Accounting", "EvaluationOptions", "GridOptions", "Targeted", "yaml_no"]

Targeted = Literal["no", "next", "random", "least-likely", "all"]
"""How a targeted attack chooses its target classes; ``"no"`` for an untargeted attack."""

Accounting = Literal["expected", "single-draw"]
"""How the accuracy of a randomized model is counted.

``"expected"`` is the expected accuracy over held-out draws. ``"single-draw"`` is how AutoAttack counts: the clean image and
every attack get one draw, and an image is broken as soon as one of these draws is wrong. An unlucky draw then counts as a
success of the attack, so this way exists only for comparison with figures that were counted like that.
"""


def yaml_no(value: Any) -> Any:
    """Restores the word ``no``, which YAML reads as false; any other value stays as it is."""
    return "no" if value is False else value


def _radius(eps: Any) -> Any:
    """A radius that is text, such as ``"8/255"``, as a number."""
    return parse_eps(eps).value if isinstance(eps, str) else eps


class GridOptions(BaseModel):
    """The options that every attack of a suite shares, and that can take several values in a suite file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targeted: Annotated[Targeted, BeforeValidator(yaml_no)] = Field(
        "no", description="target class of a targeted attack; 'no' attacks away from the correct class"
    )
    repeats: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None,
        description="held-out draws that score each image of a randomized defense; 10 by default",
        json_schema_extra={"group": "Defense"},
    )
    precision: Precision = Field(
        "tf32",
        description="precision of the gradients of fixed-radius attacks on a GPU; images are scored in full float32",
    )
    stop_when_decided: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="attack images in random order, and stop once the robust accuracy of all is at least this limit, or below it, "
        "with an error of at most 5 %",
    )

    @property
    def is_targeted(self) -> bool:
        """Whether the attack has target classes."""
        return self.targeted != "no"


class EvaluationOptions(GridOptions):
    """What an evaluation measures, besides the model, the images and the attack."""

    norm: Norm | None = Field(None, description="norm of the perturbation; the attack's first norm by default")
    eps: Annotated[float | None, BeforeValidator(_radius)] = Field(
        None, description="radius on the [0, 1] pixel scale; without it a minimal-norm attack may move any distance"
    )
    eot: EOTChoice = Field(
        "auto", description="draws of a randomized defense behind each gradient: a number, 'exact', 'frozen' or 'auto'"
    )
    seed: int = Field(0, ge=0, description="seed of the attack's random numbers and of all draws")
    accounting: Accounting = Field(
        "expected", description="count the expected accuracy over draws, or one draw per attack as AutoAttack does"
    )
