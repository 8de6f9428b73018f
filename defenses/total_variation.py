"""Total variation minimisation of the images."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import StochasticLayer, uniform_like
from robustbench_cli.defenses.base.transformed import Transformed

__all__ = ["TotalVariation"]

_BALANCE = 0.5


class TotalVariation(RandomizedDefense):
    """Total variation minimisation: pixels are dropped at random and filled in as smoothly as the others allow.

    Of an image x the model sees the z that minimises ``sum_i m_i (z_i - x_i)^2 + weight * TV(z)``, where m_i is 0 for
    the dropped pixels of each channel and 1 for the others, and TV is the sum over the pixels of the length of the step
    to the pixels below and to the right (Rudin, Osher, Fatemi, Physica D 1992). The steps of the solver (Chambolle,
    Pock, Journal of Mathematical Imaging and Vision 2011) are differentiable, so that gradients are true ones, through
    all of them.

    Attacks that do not adapt stand beside those that do in ``--suite adaptive``.
    """

    paper: ClassVar[str] = (
        "Chuan Guo, Mayank Rana, Moustapha Cisse, Laurens van der Maaten, Countering Adversarial Images using Input "
        "Transformations, ICLR 2018, arXiv 1711.00117"
    )

    rate: float = Field(0.5, ge=0, lt=1, description="share of the pixels that are dropped")
    weight: float = Field(0.03, gt=0, description="of the total variation against the squared distance from the image")
    steps: int = Field(50, ge=1, description="of the solver")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return Transformed(_Smoothing(self.rate, self.weight, self.steps), copy.deepcopy(model))


class _Smoothing(StochasticLayer):
    """Images ``(N, C, H, W)`` of little total variation, near to pixels drawn for each; without draws, near to all."""

    def __init__(self, rate: float, weight: float, steps: int) -> None:
        super().__init__()
        self.rate = rate
        self.weight = weight
        self.steps = steps

    def forward(self, images: Tensor) -> Tensor:
        kept = uniform_like(images) >= self.rate if self.drawing else torch.ones_like(images, dtype=torch.bool)
        # Primal and dual steps whose product is 1/8, the inverse of the differences' largest singular value, squared.
        primal, dual = 1 / (_BALANCE * math.sqrt(8)), _BALANCE / math.sqrt(8)
        pull = 2 * primal * kept
        smooth = ahead = _filled(images, kept)
        flow = torch.zeros(2, *images.shape, dtype=images.dtype, device=images.device)
        for _ in range(self.steps):
            flow = flow + dual * _differences(ahead)
            # Bounded before the root, which has no slope at 0.
            length = flow.square().sum(0).clamp_min(self.weight**2).sqrt()
            flow = flow * (self.weight / length)
            follows = (smooth + primal * _divergence(flow) + pull * images) / (1 + pull)
            ahead = 2 * follows - smooth
            smooth = follows
        return smooth

    def extra_repr(self) -> str:
        return f"rate={self.rate}, weight={self.weight}, steps={self.steps}"


def _filled(images: Tensor, kept: Tensor) -> Tensor:
    """Images whose dropped pixels are the means of the kept ones around them; the solver's start."""
    share, mean = (functional.avg_pool2d(each, 3, 1, padding=1) for each in (kept.to(images), kept * images))
    return torch.where(kept, images, mean / share.clamp_min(1 / 9))


def _differences(images: Tensor) -> Tensor:
    """``(2, N, C, H, W)``: the steps to the pixels below and to the right, 0 at the edge."""
    below = functional.pad(images[:, :, 1:] - images[:, :, :-1], (0, 0, 0, 1))
    right = functional.pad(images[..., 1:] - images[..., :-1], (0, 1))
    return torch.stack((below, right))


def _divergence(flow: Tensor) -> Tensor:
    """The negative adjoint of :func:`_differences`."""
    below, right = flow[0][:, :, :-1], flow[1][..., :-1]
    return (
        functional.pad(below, (0, 0, 0, 1))
        - functional.pad(below, (0, 0, 1, 0))
        + functional.pad(right, (0, 1))
        - functional.pad(right, (1, 0))
    )
