"""What a user of a model gets from its logits: a class, a rejection, or nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.special_labels import NO_NUMBER, REJECTED

__all__ = ["RejectionLayer", "can_reject", "decisions", "with_rejections"]


class RejectionLayer(nn.Module):
    """The base of a layer that may reject images, by :func:`with_rejections`.

    Only where a model has one are equal logits a rejection. Elsewhere they are what an attack has made of a model whose
    logits saturate, and to count them as held off would make it look robust.
    """


def can_reject(model: nn.Module) -> bool:
    """Whether a model is a detector: whether any of its layers is :class:`RejectionLayer`."""
    return any(isinstance(module, RejectionLayer) for module in model.modules())


def decisions(logits: Tensor, *, detector: bool) -> Tensor:
    """The decisions ``(...)`` that logits ``(..., K)`` stand for: a class, :data:`~.answers.REJECTED` or :data:`~.answers.NO_NUMBER`.

    Args:
        logits: Of the deployed model.
        detector: Whether it :func:`can_reject`, so that equal logits are a rejection; else they are the first class.
    """
    classes = logits.argmax(-1)
    if detector:
        classes = classes.masked_fill((logits == logits[..., :1]).all(-1), REJECTED)
    return classes.masked_fill(logits.isnan().any(-1), NO_NUMBER)


def with_rejections(logits: Tensor, rejected: Tensor) -> Tensor:
    """Logits ``(..., K)`` that say so where an image is rejected ``(...)``: no class stands above another.

    So a rejection has the margin 0 whatever the label and the class to reach: to an attack it is not yet a success.
    """
    return torch.where(rejected.unsqueeze(-1), logits.mean(-1, keepdim=True), logits)
