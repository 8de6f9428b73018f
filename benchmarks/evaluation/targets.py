"""Chooses the target classes of a targeted attack."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.evaluation.options import Targeted

__all__ = ["choose_targets"]


def choose_targets(
    source: GradientSource, images: Tensor, labels: Tensor, targeted: Targeted, random: Random, *, classes: int
) -> Tensor:
    """The classes that an attack has to reach, none of them an image's own.

    Args:
        source: The attacked model, which decides which class is the least likely.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
        targeted: How the classes are chosen.
        random: Random numbers for each image.
        classes: K.

    Returns:
        ``(T, N)`` classes: T is 1, or K - 1 for ``"all"``; ``(0, N)`` for an untargeted attack.
    """
    if targeted == "no":
        return labels.new_empty(0, len(labels))
    if targeted == "next":
        return ((labels + 1) % classes)[None]
    if targeted == "random":
        return ((labels + 1 + random.integers(classes - 1)) % classes)[None]
    if targeted == "least-likely":
        probabilities = source.logits(images).softmax(2).mean(0)
        return probabilities.scatter(1, labels[:, None], torch.inf).argmin(1)[None]
    return (labels + torch.arange(1, classes, device=labels.device)[:, None]) % classes
