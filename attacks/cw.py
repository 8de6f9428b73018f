"""The L2 attack of Carlini and Wagner."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack, Streak
from robustbench_cli.attacks.base.losses import margin
from robustbench_cli.attacks.base.random import Random
from robustbench_cli.attacks.base.source import GradientSource
from robustbench_cli.attacks.base.threat import Norm, Threat, per_image

__all__ = ["CW"]


class CW(MinimalNormAttack):
    """Carlini and Wagner's L2 attack: the smallest perturbation that succeeds, by a search over the penalty's constant.

    Minimises ``|d|_2^2 + c max(margin(f(x + d)) + confidence, 0)`` by Adam (section V.A, with f_6 of section IV.A), for
    constants c that a binary search chooses for each image (section V.A, "finding the best constant"), and returns the
    smallest d that succeeded at any step of any search.

    The box is held by projecting every step onto it ("projected gradient descent" of section V.B) and not by the change
    of variables to tanh, whose derivative vanishes at pixels of exactly 0 and 1: half of a Fashion-MNIST image could not
    be moved. Every image has its own constant, its own Adam state and its own early stop, so that it is not touched by
    its batch mates.
    """

    paper: ClassVar[str] = (
        "Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks. IEEE S&P 2017, arXiv 1608.04644"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    steps: int = Field(200, ge=1, description="steps of Adam for each constant")
    binary_search_steps: int = Field(5, ge=1, description="constants that are tried")
    initial_const: float = Field(0.1, gt=0, description="the first constant c")
    confidence: float = Field(0.0, ge=0, description="the margin, in logits, by which an image must be misclassified")
    lr: float = Field(0.01, gt=0, description="learning rate of Adam")
    abort_early: bool = Field(True, description="let an image go when a tenth of the steps has not lowered its loss")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        search = _ConstantSearch(self.initial_const, images)
        best = images.clone()
        best_norm = torch.full((len(images),), torch.inf, device=images.device)
        for _ in range(self.binary_search_steps):
            found, norm = self._minimise(source, images, labels, threat.targeted, search.const)
            smaller = norm < best_norm
            best = torch.where(per_image(smaller, images), found, best)
            best_norm = torch.where(smaller, norm, best_norm)
            search.narrow(norm.isfinite())
        return best

    def _minimise(
        self, source: GradientSource, images: Tensor, labels: Tensor, targeted: bool, const: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Runs Adam at fixed constants ``(N,)``.

        Returns:
            The smallest successful perturbed images ``(N, C, H, W)`` and their squared L2 norms ``(N,)``, infinite where
            none succeeded.
        """
        found = images.clone()
        found_norm = torch.full((len(images),), torch.inf, device=images.device)
        rows = torch.arange(len(images), device=images.device)
        sign = -1.0 if targeted else 1.0

        def hinge(logits: Tensor, labels: Tensor) -> Tensor:
            return (sign * margin(logits, labels) + self.confidence).clamp_min(0)

        streak = Streak(source, images)
        iterates = images.clone()
        first, second = torch.zeros_like(images), torch.zeros_like(images)
        window = max(1, self.steps // 10)
        lowest = torch.full((len(images),), torch.inf, device=images.device)
        lowest_before = lowest.clone()
        for step in range(1, self.steps + 1):
            logits, gradient = source.gradient(iterates, labels, hinge)
            difference = iterates - images
            norm = difference.square().flatten(1).sum(1)
            margins = sign * margin(logits, labels.expand(len(logits), -1))
            fooled = streak.offer((margins < -self.confidence).all(0), rows)
            better = fooled & (norm < found_norm[rows])
            found_norm[rows] = torch.where(better, norm, found_norm[rows])
            found[rows] = torch.where(per_image(better, images), iterates, found[rows])
            lowest = torch.minimum(lowest, norm + const * (margins + self.confidence).clamp_min(0).mean(0))
            gradient = 2 * difference + per_image(const, images) * gradient
            first = first.lerp_(gradient, 0.1)
            second = second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
            iterates = (iterates - self.lr / (1 - 0.9**step) * first / scale).clamp_(0, 1)
            if self.abort_early and step % window == 0:
                going_on = (lowest < 0.9999 * lowest_before).nonzero().squeeze(1)
                if not len(going_on):
                    break
                rows, images, labels, const = rows[going_on], images[going_on], labels[going_on], const[going_on]
                iterates, first, second = iterates[going_on], first[going_on], second[going_on]
                lowest = lowest[going_on]
                lowest_before = lowest.clone()
        return found, found_norm


class _ConstantSearch:
    """The binary search for the constant, for each image by itself: tenfold until it succeeds, then halving."""

    def __init__(self, initial: float, images: Tensor) -> None:
        self.const = torch.full((len(images),), initial, device=images.device)
        self._lower = torch.zeros_like(self.const)
        self._upper = torch.full_like(self.const, torch.inf)

    def narrow(self, succeeded: Tensor) -> None:
        """Takes the outcome ``(N,)`` at the constants and sets the next ones."""
        self._upper = torch.where(succeeded, self.const.minimum(self._upper), self._upper)
        self._lower = torch.where(succeeded, self._lower, self.const.maximum(self._lower))
        middle = (self._lower + self._upper) / 2
        self.const = torch.where(self._upper.isinf(), self.const * 10, middle)
