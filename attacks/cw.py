"""The L2 attack of Carlini and Wagner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import MinimalNormAttack, Streak
from robustbench_cli.attacks.base.losses import margin, rounding
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
    be moved. Each constant begins where the search so far ended, at the best perturbation yet, and its learning rate falls
    to 0 along half a period of the cosine. Constants and learning rates are in units of the image's own margin and slope,
    so the range of the logits does not matter. Every image has its own, and its own Adam state and early stop, so that it
    is not touched by its batch mates.
    """

    paper: ClassVar[str] = (
        "Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks. IEEE S&P 2017, arXiv 1608.04644"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    steps: int = Field(200, ge=1, description="steps of Adam for each constant")
    binary_search_steps: int = Field(5, ge=1, description="constants that are tried")
    initial_const: float | None = Field(
        None,
        gt=0,
        description="the first constant c; where not given, twice what a linear model of the image's margin and slope needs",
    )
    confidence: float = Field(0.0, ge=0, description="the margin, in logits, by which an image must be misclassified")
    lr: float | None = Field(
        None,
        gt=0,
        description="learning rate of Adam at the first step of each constant; where not given, twice the root mean square "
        "of the smallest perturbation known, which is at first a linear model's",
    )
    abort_early: bool = Field(True, description="let an image go when a constant has not brought it 1 % nearer")

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        goal = _Goal(labels, self.confidence, targeted=threat.targeted)
        logits, gradient = source.gradient(images, labels, goal.loss)
        lacking = goal.lacking(logits, labels).mean(0)
        slope = gradient.flatten(1).norm(dim=1).clamp_min(1e-30)
        # No linear model is believed that calls for more than a tenth of the box's diagonal.
        farthest = 0.1 * math.sqrt(images[0].numel())
        length = (lacking / slope).clamp_max(farthest)
        const = 4 * length / slope if self.initial_const is None else torch.full_like(slope, self.initial_const)
        search = _ConstantSearch(const)
        best, best_norm = images.clone(), torch.full_like(slope, torch.inf)
        # Where nothing is lacking, the image itself is the answer.
        rows = lacking.nonzero().squeeze(1)
        for _ in range(self.binary_search_steps):
            if not len(rows):
                break
            rates = 2 * length[rows] / math.sqrt(images[0].numel()) if self.lr is None else self.lr
    def _minimise(self): ...
