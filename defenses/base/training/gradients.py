"""The loss of a training step and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.core.errors import UserError

__all__ = ["Gradients", "Smoothing", "TrainingLoss", "cross_entropy", "gradients_of", "label_loss", "smoothing_labels"]

TrainingLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From the network, images ``(B, C, H, W)`` and labels to the mean loss over the batch. Labels are classes ``(B,)``, or
probabilities ``(B, K)`` if an augmentation mixes them.
"""

Gradients = Callable[[nn.Module, Tensor, Tensor, Sequence[nn.Parameter]], tuple[Tensor, Sequence[Tensor | None]]]
"""From the network, images ``(B, C, H, W)``, labels as above and P parameters to the mean loss over the batch and its P
gradients. A gradient is ``None`` if the loss does not depend on the parameter.
"""


@dataclass
class Smoothing:
    """The label smoothing of a training step.

    Attributes:
        share: The share of the label's probability that is spread evenly over all classes.
        used: Whether a loss has used it.
    """

    share: float
    used: bool = False


_smoothing: ContextVar[Smoothing] = ContextVar("label smoothing")


@contextmanager
def smoothing_labels(share: float) -> Iterator[Smoothing]:
    """Makes :func:`label_loss` smooth labels within the context.

    Args:
        share: The share of the label's probability that is spread evenly over all classes, in [0, 1).

    Yields:
        A record that says whether a loss has used it.
    """
    current = Smoothing(share)
    token = _smoothing.set(current)
    try:
        yield current
    finally:
        _smoothing.reset(token)


def label_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean cross-entropy that trains the weights, with the label smoothing of the recipe.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,)``, or probabilities ``(B, K)``.
        weights: A factor for the cross-entropy of each image ``(B,)``; 1 by default.
    """
    current = _smoothing.get(Smoothing(0))
    current.used = True
    if weights is None:
        return functional.cross_entropy(logits, labels, label_smoothing=current.share)
    return (weights * functional.cross_entropy(logits, labels, reduction="none", label_smoothing=current.share)).mean()


def cross_entropy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of a network's logits.

    Args:
        network: Images to logits ``(B, K)``.
        images: ``(B, C, H, W)`` in [0, 1].
        labels: ``(B,)``, or probabilities ``(B, K)``.
    """
    return label_loss(network(images), labels)


def gradients_of(loss: TrainingLoss) -> Gradients:
    """The function that computes a loss and its gradients by backpropagation.

    The function raises a ``UserError`` if the loss does not depend on any weight.
    """

    def gradients(
        network: nn.Module, images: Tensor, labels: Tensor, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        value = loss(network, images, labels)
        if not value.requires_grad:
            raise UserError(
                "the model cannot be trained: its logits are cut off from its weights (detach, no_grad); "
                "give a --checkpoint of it"
            )
        # Not value.backward(): it would also fill .grad of other tensors, which costs time.
        return value, torch.autograd.grad(value, parameters, allow_unused=True)

    return gradients
