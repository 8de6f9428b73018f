"""The options of an evaluation.

A field of :class:`GridOptions` is an option of ``advdef attack``, a key and a dimension of a suite file, a part of a
cell's identity and an argument of ``evaluate``: adding one is adding one field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["Accounting", "GridOptions", "Targeted", "resolve_repeats"]

Targeted = Literal["no", "next", "random", "least-likely", "all"]

Accounting = Literal["expected", "single-draw"]
"""How the accuracy of a randomized model is counted.

``"expected"``: over held-out draws. ``"single-draw"``: as AutoAttack does, on one draw for the clean image and one after
each attack; an image counts as broken once one of these draws misclassifies it. It takes an unlucky draw for a success
of the attack, and exists for comparison with published figures.
"""


def _yaml_no(value: Any) -> Any:
    """YAML reads the word ``no`` as false."""
    return "no" if value is False else value


class GridOptions(BaseModel):
    """The evaluation options that are plain dimensions of a suite's grid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targeted: Annotated[Targeted, BeforeValidator(_yaml_no)] = Field(
        "no", description="target class of a targeted attack; 'no' attacks away from the correct class"
    )
    repeats: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None, description="held-out draws that score an image of a randomized defense (10 where not given)"
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="precision of the gradients of fixed-radius attacks; images are scored in float32"
    )


def resolve_repeats(repeats: int | None, *, randomized: bool) -> int:
    """The number of held-out draws that score an image.

    Args:
        repeats: The user's choice; ``None`` for 10.
        randomized: Whether the model draws; a deterministic model needs one pass.
    """
    return (repeats or 10) if randomized else 1
