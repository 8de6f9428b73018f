"""The simple black-box attack (SimBA)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.cosine_transform import CosineTransform
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, project

__all__ = ["SimBA"]


class SimBA(FixedRadiusAttack):
    """SimBA: a step down or up along one basis vector after another, kept if the probability of the label falls.

    Each image goes through the basis in an order of its own. It tries the step down, and the step up if the first one did not
    help (algorithm 1), so a basis vector takes one or two queries. The paper's steps are in a ball by their number alone; here each
    is projected onto the ball. After the last basis vector the search starts again with the first one.
    """

    paper: ClassVar[str] = (
        "Guo, Gardner, You, Wilson, Weinberger: Simple Black-box Adversarial Attacks. ICML 2019, arXiv 1905.07121"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2", "linf")
    access: ClassVar[Literal["scores"]] = "scores"

    queries: int = Field(
        5000, ge=1, description="query budget for each image; half of it scores iterates if the draws are a sample"
    )
    step_size: float = Field(0.2, gt=0, description="length of a step on the [0, 1] pixel scale (epsilon in the paper)")
    basis: Literal["pixel", "dct"] = Field(
        "pixel", description="the basis: pixels, or the discrete cosine transform (SimBA-DCT)"
    )
    frequencies: float = Field(
        0.125, gt=0, le=1, description="share of the frequencies along each axis, from the lowest on; for the basis dct"
    )

    def most_queries(self) -> int:
        return self.queries

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best = BestIterates(source, images, labels, threat)
        direction = _pixels if self.basis == "pixel" else CosineTransform(images).inverse
        logits = source.logits(images)
        search = _Search.begin(images, labels, threat, self._order(images, random), _losses(logits, labels, threat))
        unbroken, rescores = best.offer(images, logits), not source.exhaustive
        for _ in range((self.queries - 1) // (2 if rescores else 1)):
            if unbroken is not None:
                if not len(unbroken):
                    break
                search = search.select(unbroken)
            candidates = search.candidates(direction, self.step_size)
            logits = source.logits(candidates)
            if rescores:
                search.losses = _losses(source.logits(search.iterates), search.labels, threat)
            search.move(candidates, _losses(logits, search.labels, threat))
            unbroken = best.offer(candidates, logits)
        return best.images

    def _order(self, images: Tensor, random: Random) -> Tensor:
        """The numbers ``(N, B)`` of the basis vectors among all pixels of all channels, in an order for each image."""
        channels, height, width = images.shape[1:]
        numbers = torch.arange(channels * height * width, device=images.device).view(channels, height, width)
        if self.basis == "dct":
            height, width = (max(1, round(self.frequencies * size)) for size in (height, width))
        numbers = numbers[:, :height, :width].flatten()
        return numbers[random.uniform(numbers.shape).argsort(dim=1, stable=True)]


@dataclass
class _Search:
    """Where the search of each image is.

    Attributes:
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        threat: The norm, the radii and the goal.
        order: ``(N, B)``, the basis vectors in the order of the image.
        iterates: ``(N, C, H, W)``.
        losses: ``(N,)``, the losses of the iterates.
        position: ``(N,)`` int64, the steps along the order so far.
        upwards: ``(N,)``, whether the step down has failed, so that the next one is up.
    """

    images: Tensor
    labels: Tensor
    threat: Threat
    order: Tensor
    iterates: Tensor
    losses: Tensor
    position: Tensor
    upwards: Tensor

    @classmethod
    def begin(cls, images: Tensor, labels: Tensor, threat: Threat, order: Tensor, losses: Tensor) -> _Search:
        """A search that begins at the images."""
        position = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return cls(images, labels, threat, order, images, losses, position, position > 0)

    def select(self, rows: Tensor) -> _Search:
        """The search of the images ``rows``."""
        tensors = {name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, threat=self.threat.select(rows), **tensors)

    def candidates(self, direction: Callable[[Tensor], Tensor], step_size: float) -> Tensor:
        """The next points ``(N, C, H, W)``."""
        number = self.order.gather(1, (self.position % self.order.shape[1])[:, None])
        steps = torch.where(self.upwards, step_size, -step_size).to(self.images.dtype)[:, None]
        coefficients = torch.zeros_like(self.images.flatten(1)).scatter_(1, number, steps)
        return project(self.iterates + direction(coefficients.view_as(self.images)), self.images, self.threat)

    def move(self, candidates: Tensor, losses: Tensor) -> None:
        """Goes to the candidates ``(N, C, H, W)`` whose losses ``(N,)`` are larger, and on in the order."""
        better = losses > self.losses
        self.iterates = torch.where(better[:, None, None, None], candidates, self.iterates)
        self.losses = torch.where(better, losses, self.losses)
        done = better | self.upwards
        self.position, self.upwards = self.position + done, ~done


def _pixels(coefficients: Tensor) -> Tensor:
    return coefficients


def _losses(logits: Tensor, labels: Tensor, threat: Threat) -> Tensor:
    """The mean loss ``(N,)`` of logits ``(D, N, K)``, which grows as the probability of the label falls, or of the target rises."""
    losses = cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits))).view(len(logits), -1).mean(0)
    return -losses if threat.targeted else losses
