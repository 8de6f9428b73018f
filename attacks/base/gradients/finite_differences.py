"""Gradients from scores: differences along random directions, and the ascent along them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, per_image, project, steepest_ascent

__all__ = ["FiniteDifferences", "estimated_gradient"]

_AT_ONCE = 8
"""Pairs whose directions are drawn in one go and whose images are held at the same time."""


def estimated_gradient(
    source: GradientSource, images: Tensor, labels: Tensor, directions: Iterable[Tensor], width: float
) -> Tensor:
    """The mean over directions u of ``u (loss(x + width u) - loss(x - width u)) / (2 width)``, for the margin.

    Args:
        source: Gives the scores; the margin is their mean over its draws.
        images: ``(N, C, H, W)`` in [0, 1]; the points around them are cut with the box, so that the model is shown
            images.
        labels: ``(N,)``.
        directions: Each ``(N, pairs, C, H, W)``; all pairs of one tensor pass through the model together.
        width: How far from the image the loss is taken.

    Returns:
        ``(N, C, H, W)``, of ``-margin``: it points to where the label is not predicted.
    """
    total, count = torch.zeros_like(images), 0
    for some in directions:
        moves = width * some
        points = torch.cat([images.unsqueeze(1) + moves, images.unsqueeze(1) - moves], dim=1).clamp_(0, 1)
        logits = source.logits(points.flatten(0, 1), copies=points.shape[1])
        margins = margin(logits, labels.repeat_interleave(points.shape[1]).expand(len(logits), -1)).mean(0)
        ahead, behind = margins.view(len(images), 2, -1).unbind(1)
        total += torch.einsum("np,np...->n...", behind - ahead, some)
        count += some.shape[1]
    return total / (2 * width * count)


class FiniteDifferences(FixedRadiusAttack, ABC):
    """Projected ascent along gradients that are estimated from scores.

    Of all iterates the one with the smallest expected margin is returned. The steps follow the estimates' running mean,
    since one estimate is mostly noise, and fall evenly to 0.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    uses: ClassVar[Literal["scores"]] = "scores"

    steps: int = Field(50, ge=1, description="steps of the ascent")
    pairs: int = Field(32, ge=1, description="directions of each estimate; the model is asked twice for each of them")
    step_size: float | None = Field(
        None,
        gt=0,
        description="length of every step on the [0, 1] pixel scale; where not given, it falls evenly from eps to 0",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="weight of the earlier estimates at each step")
    delta: float = Field(
        0.01,
        gt=0,
        description="step of the finite differences, as the mean change of a pixel",
        json_schema_extra={"formerly": "width"},
    )

    @abstractmethod
    def directions(self, shape: tuple[int, ...], random: Random) -> Tensor:
        """Random directions ``(N, *shape)``, symmetric about 0 and with unit variance in each pixel."""

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best = BestIterates(source, images, labels, threat)
        iterates, mean = images, torch.zeros_like(images)
        for step in range(self.steps):
            going_on = best.offer(iterates, source.logits(iterates))
            if going_on is not None:
                if not len(going_on):
                    return best.images
                images, labels, threat = images[going_on], labels[going_on], threat.select(going_on)
                iterates, mean, random = iterates[going_on], mean[going_on], random.select(going_on)
            directions = self._in_parts(images.shape[1:], random)
            mean = self.momentum * mean + estimated_gradient(source, iterates, labels, directions, self.delta)
            move = steepest_ascent(mean, threat.norm) * self._step_sizes(step, threat, images)
            iterates = project(iterates - move if threat.targeted else iterates + move, images, threat)
        best.offer(iterates, source.logits(iterates))
        return best.images

    def _in_parts(self, shape: tuple[int, ...], random: Random) -> Iterator[Tensor]:
        for start in range(0, self.pairs, _AT_ONCE):
            yield self.directions((min(_AT_ONCE, self.pairs - start), *shape), random)

    def _step_sizes(self, step: int, threat: Threat, images: Tensor) -> Tensor:
        falling = threat.eps * (1 - step / self.steps)
        sizes = falling if self.step_size is None else torch.full_like(threat.eps, self.step_size)
        return per_image(sizes, images).to(images.dtype)
