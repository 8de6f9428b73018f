"""The gradient over several copies of each image, for examples that fool other models too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import cross_entropy

__all__ = ["chunks_of", "mean_gradient", "scaled_copies"]

_AT_ONCE = 10
"""Copies of each image that are in memory at once."""


def chunks_of(count: int) -> Iterator[int]:
    """The sizes of the chunks in which so many copies of each image pass through a model.

    >>> list(chunks_of(25))
    [10, 10, 5]
    """
    for start in range(0, count, _AT_ONCE):
        yield min(_AT_ONCE, count - start)


def mean_gradient(source: GradientSource, chunks: Iterable[tuple[Tensor, Sequence[float]]], labels: Tensor) -> Tensor:
    """The mean over the copies of an image of the cross-entropy's gradient with respect to the image.

    A copy outside the box is clamped to it, and the gradient there counts as that of the copy: the derivative of the clamp would
    hide all pixels that it moves.

    Args:
        source: Gives the gradients.
        chunks: Copies ``(N, P, C, H, W)``, which pass through the model together, and their P derivatives with respect to the
            image.
        labels: ``(N,)``.

    Returns:
        ``(N, C, H, W)``.
    """
    total, count = torch.zeros(()), 0
    for copies, derivatives in chunks:
        copies_per_image = copies.shape[1]
        repeated = labels.repeat_interleave(copies_per_image)
        points = copies.clamp(0, 1).flatten(0, 1)
        _, gradient = source.gradient(points, repeated, cross_entropy, copies=copies_per_image)
        # One after another, so that the sum of an image does not depend on the size of the batch.
        for part, derivative in zip(gradient.view_as(copies).unbind(1), derivatives, strict=True):
            total = torch.add(total, part, alpha=derivative)
        count += copies_per_image
    return total / count


def scaled_copies(images: Tensor, scales: int) -> tuple[Tensor, list[float]]:
    """The images divided by 1, 2, 4, ..., and the derivatives of these copies.

    Args:
        images: ``(N, P, C, H, W)``.
        scales: S, the number of divisors.

    Returns:
        ``(N, P * S, C, H, W)``, and P * S numbers.

    >>> copies, derivatives = scaled_copies(torch.ones(1, 1, 1, 1, 1), 3)
    >>> copies.flatten().tolist(), derivatives
    ([1.0, 0.5, 0.25], [1.0, 0.5, 0.25])
    """
    factors = [2.0**-scale for scale in range(scales)]
    copies = torch.stack([images * factor for factor in factors], 2)
    return copies.flatten(1, 2), factors * images.shape[1]
