"""The path of an attack over some images: the loss at each step, and the gradient at the end."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.pgd import PGD

__all__ = ["LossPath", "follow"]


class LossPath(NamedTuple):
    """The path of PGD over N images.

    Attributes:
        images: ``(N, C, H, W)``, the images.
        threat: Their threat.
        losses: ``(S + 1, N)``, the cross-entropy at the starting point and after each of the S steps, averaged over the draws.
        ends: ``(N, C, H, W)``, the last iterates.
        gradients: ``(N, C, H, W)``, of the cross-entropy at the last iterates.
        sampled: Whether each step has its own sample of draws, which moves the loss too.
    """

    images: Tensor
    threat: Threat
    losses: Tensor
    ends: Tensor
    gradients: Tensor
    sampled: bool

    @property
    def changing(self) -> Tensor:
        """``(N,)`` bool: the images whose loss changes on the path."""
        return self.losses.amax(0) > self.losses.amin(0)

    def heights(self, losses: Tensor) -> Tensor:
        """Where losses ``(..., N)`` are between the lowest (0) and the highest loss (1) of each image's path.

        An image whose loss never changes is always at 0.
        """
        lowest, highest = self.losses.amin(0), self.losses.amax(0)
        span = highest - lowest
        return torch.where(span > 0, (losses - lowest) / span.clamp_min(torch.finfo(span.dtype).tiny), 0.0)


def follow(
    attack: PGD, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random
) -> LossPath:
    """Runs an attack and records its path. No image leaves the batch early.

    Args:
        attack: The attack, with one restart.
        source: The source, whose draws are bound to the images.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        threat: The untargeted threat of these images.
        random: The random numbers of these images.
    """
    sampled = not source.exhaustive
    # An image that is broken on the way goes on like the others, so that each step has the loss of every image.
    source.exhaustive = False
    losses: list[Tensor] = []
    ends = images

    def record(points: Tensor, logits: Tensor) -> None:
        nonlocal ends
        ends = points
        losses.append(torch.stack([cross_entropy(of_draw.double(), labels) for of_draw in logits]).mean(0))

    source.watch = record
    attack.run(source, images, labels, threat, random)
    source.watch = None
    gradients = source.gradient(ends, labels, cross_entropy)[1]
    return LossPath(images, threat, torch.stack(losses), ends, gradients, sampled)
