"""The size of a model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ModelSize"]


class ModelSize(BaseModel):
    """What a model stores, and what a forward pass of it computes.

    Attributes:
        parameters: The number of trained parameters.
        nonzero: Those of them that are not zero. A weight that torch's pruning masks is zero.
        macs: The multiply-accumulates of the deployed rule for one image; ``None`` if they cannot be counted; see
            :func:`~robustbench_cli.attacks.base.models.operations.multiply_accumulates`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int = Field(ge=0)
    nonzero: int = Field(ge=0)
    macs: int | None = Field(ge=0)
