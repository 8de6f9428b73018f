"""Total variation minimization of the images."""

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
    """Total variation minimization: drops pixels at random and reconstructs a smooth image; no training.

    For an image x, the model's input is the z that minimizes ``sum_i m_i (z_i - x_i)^2 + tv_weight * TV(z)``. The mask m_i
    is 0 for the dropped pixels of each channel and 1 for the others. TV is the sum over the pixels of the norm of the
    differences to the pixels below and to the right (Rudin, Osher, Fatemi: Nonlinear Total Variation Based Noise Removal
    Algorithms. Physica D 1992). The primal-dual solver (Chambolle, Pock: A First-Order Primal-Dual Algorithm for Convex
    Problems. JMIV 2011) is differentiable, and gradients are exact, through all its steps.

    ``--suite adaptive`` shows non-adaptive and adaptive attacks side by side.
    """

    paper: ClassVar[str] = (
        "Chuan Guo, Mayank Rana, Moustapha Cisse, Laurens van der Maaten, Countering Adversarial Images using Input "
        "Transformations, ICLR 2018, arXiv 1711.00117"
    )

    drop_rate: float = Field(
        0.5, ge=0, lt=1, description="fraction of the pixels that are dropped", json_schema_extra={"formerly": "rate"}
    )
    tv_weight: float = Field(
        0.03,
        gt=0,
        description="weight of the total variation, relative to the squared distance from the image",
        json_schema_extra={"formerly": "weight"},
    )
    steps: int = Field(50, ge=1, description="number of steps of the solver")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return Transformed(_TVDenoising(self.drop_rate, self.tv_weight, self.steps), copy.deepcopy(model))


class _TVDenoising(StochasticLayer):
    """Reconstructs images ``(N, C, H, W)`` from randomly drawn pixels; without draws, from all pixels."""

    def __init__(self, drop_rate: float, tv_weight: float, steps: int) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.tv_weight = tv_weight
        self.steps = steps

    def forward(self, images: Tensor) -> Tensor:
        mask = uniform_like(images) >= self.drop_rate if self.drawing else torch.ones_like(images, dtype=torch.bool)
        # The product of the step sizes is 1/8, and 8 bounds the squared norm of the difference operator.
        primal, dual = 1 / (_BALANCE * math.sqrt(8)), _BALANCE / math.sqrt(8)
        attraction = 2 * primal * mask
        smooth = extrapolated = _fill_in(images, mask)
        flow = torch.zeros(2, *images.shape, dtype=images.dtype, device=images.device)
        for _ in range(self.steps):
            flow = flow + dual * _differences(extrapolated)
            # Clamped before the square root, whose derivative is infinite at 0.
            length = flow.square().sum(0).clamp_min(self.tv_weight**2).sqrt()
            flow = flow * (self.tv_weight / length)
            previous, smooth = smooth, (smooth + primal * _divergence(flow) + attraction * images) / (1 + attraction)
            extrapolated = 2 * smooth - previous
        return smooth

    def extra_repr(self) -> str:
        return f"drop_rate={self.drop_rate}, tv_weight={self.tv_weight}, steps={self.steps}"


def _fill_in(images: Tensor, mask: Tensor) -> Tensor:
    """The solver's initial images: each dropped pixel becomes the mean of the others in its 3 x 3 neighborhood."""
    density, mean = (functional.avg_pool2d(channels, 3, 1, padding=1) for channels in (mask.to(images), mask * images))
    return torch.where(mask, images, mean / density.clamp_min(1 / 9))


def _differences(images: Tensor) -> Tensor:
    """The differences to the pixels below and to the right ``(2, N, C, H, W)``, 0 at the edge."""
    below = functional.pad(images[:, :, 1:] - images[:, :, :-1], (0, 0, 0, 1))
    right = functional.pad(images[..., 1:] - images[..., :-1], (0, 1))
    return torch.stack((below, right))


def _divergence(flow: Tensor) -> Tensor:
    """The divergence, the negative adjoint of :func:`_differences`."""
    below, right = flow[0][:, :, :-1], flow[1][..., :-1]
    return (
        functional.pad(below, (0, 0, 0, 1))
        - functional.pad(below, (0, 0, 1, 0))
        + functional.pad(right, (0, 1))
        - functional.pad(right, (1, 0))
    )
