"""What a user of a model gets from its logits: a class, a rejection, or nothing."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NO_NUMBER", "REJECTED", "decisions", "rejecting"]

REJECTED = -1
"""The decision to take an image for none of the classes, which a detector makes; see :func:`rejecting`."""

NO_NUMBER = -2
"""In the place of a decision where a logit is not a number: the model has failed."""


def decisions(logits: Tensor) -> Tensor:
    """The decisions ``(...)`` that logits ``(..., K)`` stand for: a class, :data:`REJECTED` or :data:`NO_NUMBER`."""
    rejected = (logits == logits[..., :1]).all(-1)
    classes = logits.argmax(-1).masked_fill(rejected, REJECTED)
    return classes.masked_fill(logits.isnan().any(-1), NO_NUMBER)


def rejecting(logits: Tensor, rejected: Tensor) -> Tensor:
    """Logits ``(..., K)`` that say so where an image is rejected ``(...)``: no class stands above another.

    So a rejection has the margin 0 whatever the label and the class to reach: to an attack it is not yet a success.
    """
    return torch.where(rejected.unsqueeze(-1), logits.mean(-1, keepdim=True), logits)
