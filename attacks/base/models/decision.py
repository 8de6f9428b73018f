"""Turns logits into the model's decision: a class, a rejection, or a failure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.special_labels import NO_NUMBER, REJECTED

__all__ = ["RejectionLayer", "can_reject", "decisions", "with_rejections"]


class RejectionLayer(nn.Module):
    """The base class of a layer that may reject images with :func:`with_rejections`.

    Equal logits count as a rejection only if the model has such a layer. In any other model, equal logits are a sign
    that the logits saturate under attack. Counting those images as rejected would make the model look robust.
    """


def can_reject(model: nn.Module) -> bool:
    """Whether a model is a detector: whether any of its layers is a :class:`RejectionLayer`."""
    return any(isinstance(module, RejectionLayer) for module in model.modules())


def decisions(logits: Tensor, *, detector: bool) -> Tensor:
    """The decision of the deployed model for each row of logits.

    Args:
        logits: ``(..., K)``, of the deployed model.
        detector: Whether the model :func:`can_reject`. If so, equal logits are a rejection; if not, they are class 0.

    Returns:
        ``(...)`` int64: a class, or :data:`~.special_labels.REJECTED`, or :data:`~.special_labels.NO_NUMBER`.
    """
    classes = logits.argmax(-1)
    if detector:
        classes = classes.masked_fill((logits == logits[..., :1]).all(-1), REJECTED)
    return classes.masked_fill(logits.isnan().any(-1), NO_NUMBER)


def with_rejections(logits: Tensor, rejected: Tensor) -> Tensor:
    """Replaces the logits of rejected images by their mean, so that all logits are equal.

    A rejection then has margin 0 for every label and every target. An attack does not count it as a success.

    Args:
        logits: ``(..., K)``.
        rejected: ``(...)`` bool.

    Returns:
        Logits ``(..., K)``.
    """
    return torch.where(rejected.unsqueeze(-1), logits.mean(-1, keepdim=True), logits)
