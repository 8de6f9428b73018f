"""Attacks by scores alone that estimate gradients by finite differences along random directions."""

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

_PAIRS_PER_CHUNK = 8
"""The number of pairs per chunk, which bounds the memory."""

_NUMBERS = 1 << 22
"""The largest number of random numbers to draw at once for several chunks."""


def estimated_gradient(
    source: GradientSource, images: Tensor, labels: Tensor, directions: Iterable[Tensor], width: float
) -> Tensor:
    """Estimates the gradient of ``loss = -margin`` by central differences along random directions u.

    The estimate is the mean over u of ``u (loss(x + width u) - loss(x - width u)) / (2 width)``.

    Args:
        source: Gives the scores; the margin is its mean over the draws.
        images: ``(N, C, H, W)`` in [0, 1]. The points around them are clamped to the box.
        labels: ``(N,)``.
        directions: Chunks ``(N, pairs, C, H, W)``. The pairs of a chunk pass through the model together.
        width: The distance from the image, in units of a direction.

    Returns:
        ``(N, C, H, W)``, the direction in which the label's margin falls.
    """
    total, count = torch.zeros_like(images), 0
    for chunk in directions:
        moves = width * chunk
        points = torch.cat([images.unsqueeze(1) + moves, images.unsqueeze(1) - moves], dim=1).clamp_(0, 1)
        logits = source.logits(points.flatten(0, 1), copies=points.shape[1])
        margins = margin(logits, labels.repeat_interleave(points.shape[1]).expand(len(logits), -1)).mean(0)
        ahead, behind = margins.view(len(images), 2, -1).unbind(1)
        total += torch.einsum("np,np...->n...", behind - ahead, chunk)
        count += chunk.shape[1]
    return total / (2 * width * count)


class FiniteDifferences(FixedRadiusAttack, ABC):
    """Projected gradient ascent along gradients that are estimated from scores.

    A single estimate is mostly noise, so each step follows the running mean of the estimates. The step size decreases
    linearly to 0. The result is the iterate with the smallest expected margin.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    access: ClassVar[Literal["scores"]] = "scores"
    draws_per_chunk: ClassVar[int] = 1
    """The number of draws from the streams in :meth:`directions`."""

    steps: int = Field(50, ge=1, description="steps of the ascent")
    pairs: int = Field(32, ge=1, description="directions of each estimate; each costs two queries")
    step_size: float | None = Field(
        None,
        gt=0,
        description="step size on the [0, 1] pixel scale; by default it decreases linearly from eps to 0",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="weight of the earlier estimates in the running mean")
    delta: float = Field(
        0.01,
        gt=0,
        description="step of the finite differences, as the mean change of a pixel",
        json_schema_extra={"formerly": "width"},
    )

    @abstractmethod
    def directions(self, shape: tuple[int, ...], random: Random) -> Tensor:
        """Random directions, symmetric about 0 and with unit variance in each pixel.

        Args:
            shape: The shape of one image's directions.
            random: The random numbers of the N images, or those of several chunks; see :meth:`Random.ahead`.

        Returns:
            ``(N, *shape)``, or ``(S, N, *shape)`` for S chunks.
        """

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best = BestIterates(source, images, labels, threat)
        iterates, mean = images, torch.zeros_like(images)
        for step in range(self.steps):
            remaining = best.offer(iterates, source.logits(iterates))
            if remaining is not None:
                if not len(remaining):
                    return best.images
                images, labels, threat = images[remaining], labels[remaining], threat.select(remaining)
                iterates, mean, random = iterates[remaining], mean[remaining], random.select(remaining)
            directions = self._chunks(images, random)
            mean = self.momentum * mean + estimated_gradient(source, iterates, labels, directions, self.delta)
            move = steepest_ascent(mean, threat.norm) * self._step_sizes(step, threat, images)
            iterates = project(iterates - move if threat.targeted else iterates + move, images, threat)
        best.offer(iterates, source.logits(iterates))
        return best.images

    def _chunks(self, images: Tensor, random: Random) -> Iterator[Tensor]:
        full, rest = divmod(self.pairs, _PAIRS_PER_CHUNK)
        at_once = max(1, _NUMBERS // (_PAIRS_PER_CHUNK * images.numel()))
        for start in range(0, full, at_once):
            ahead = random.ahead(min(at_once, full - start), draws=self.draws_per_chunk)
            yield from self.directions((_PAIRS_PER_CHUNK, *images.shape[1:]), ahead)
        if rest:
            yield self.directions((rest, *images.shape[1:]), random)

    def _step_sizes(self, step: int, threat: Threat, images: Tensor) -> Tensor:
        decreasing = threat.eps * (1 - step / self.steps)
        sizes = decreasing if self.step_size is None else torch.full_like(threat.eps, self.step_size)
        return per_image(sizes, images).to(images.dtype)
