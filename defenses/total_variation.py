"""Total variation minimization of the images."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import StochasticLayer, uniform_like
from robustbench_cli.defenses.base.transformed import Transformed

__all__ = ["TotalVariation"]

_BALANCE = 0.5

_PRIMAL, _DUAL = 1 / (_BALANCE * math.sqrt(8)), _BALANCE / math.sqrt(8)
"""The step sizes: their product is 1/8, and 8 bounds the squared norm of the difference operator."""


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
    family: ClassVar[str] = "input-transformation"

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
        problem = images, _fill_in(images, mask), mask, self.tv_weight
        if torch.is_grad_enabled() and images.requires_grad:
            smooth: Tensor = _Solution.apply(*problem, self.steps)[0]
            return smooth
        ((smooth, *_),) = deque(islice(_iterates(*problem), self.steps), maxlen=1)
        return smooth

    def extra_repr(self) -> str:
        return f"drop_rate={self.drop_rate}, tv_weight={self.tv_weight}, steps={self.steps}"


def _fill_in(images: Tensor, mask: Tensor) -> Tensor:
    """The solver's initial images: each dropped pixel becomes the mean of the others in its 3 x 3 neighborhood."""
    density, mean = (functional.avg_pool2d(channels, 3, 1, padding=1) for channels in (mask.to(images), mask * images))
    return torch.where(mask, images, mean / density.clamp_min(1 / 9))


def _iterates(images: Tensor, start: Tensor, mask: Tensor, tv_weight: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The solver's iterates, with what :class:`_Solution` needs of each step.

    Args:
        images: ``(N, C, H, W)``.
        start: ``(N, C, H, W)``, the initial images.
        mask: ``(N, C, H, W)`` bool.
        tv_weight: The weight of the total variation.

    Yields:
        The images ``(N, C, H, W)``, the flow ``(2, N, C, H, W)`` in units of the weight, and the lengths ``(N, C, H, W)``
        by which it was divided.
    """
    kept, attraction = _step_factors(mask, images)
    attraction = attraction * images
    smooth = extrapolated = start
    flow = torch.stack([torch.zeros_like(images)] * 2)
    while True:
        flow = _add_differences(flow.clone(), extrapolated, _DUAL / tv_weight)
        length = _products(flow, flow).clamp_min_(1).sqrt_()
        flow = flow / length
        previous, moved = smooth, _plus_divergence(smooth, flow, _PRIMAL * tv_weight)
        smooth = torch.addcmul(attraction, kept, moved)
        extrapolated = previous.lerp(smooth, 2)
        yield smooth, flow, length


def _step_factors(mask: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the moved images and of the given images in a step towards the latter; they add up to 1."""
    kept = 1 / (1 + 2 * _PRIMAL * mask.to(images.dtype))
    return kept, 1 - kept


class _Solution(torch.autograd.Function):
    """The last iterate of the solver. The gradient is the exact one through all steps, in few operations and little memory.

    Also returns the flows and the lengths of all steps, which have no gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, start: Tensor, mask: Tensor, tv_weight: float, steps: int) -> tuple[Tensor, ...]:
        smooth, flows, lengths = zip(*islice(_iterates(images, start, mask, tv_weight), steps), strict=True)
        return (smooth[-1], *flows, *lengths)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        images, _, mask, ctx.tv_weight, ctx.steps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*_step_factors(mask, images), *output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_smooth: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """The steps of :func:`_iterates` in reverse. The differences' adjoint is minus the divergence."""
        kept, attraction, *saved = ctx.saved_tensors
        zeros = torch.zeros_like(of_smooth)
        of_images, of_extrapolated, of_flow = zeros.clone(), zeros, torch.stack([zeros, zeros])
        for flow, length in zip(reversed(saved[: ctx.steps]), reversed(saved[ctx.steps :]), strict=True):
            of_smooth = of_smooth.add(of_extrapolated, alpha=2)
            of_images = of_images.add_(of_smooth)
            of_moved = of_smooth.mul(kept)
            of_flow = _add_differences(of_flow, of_moved, -_PRIMAL * ctx.tv_weight)
            # A flow that was shortened to length 1 does not follow changes of its length.
            along = _products(flow, of_flow).mul_(length > 1)
            of_flow = of_flow.addcmul_(flow, along, value=-1).div_(length)
            of_smooth = of_moved.sub_(of_extrapolated)
            of_extrapolated = _plus_divergence(zeros, of_flow, -_DUAL / ctx.tv_weight)
        return of_images.mul_(attraction), of_smooth.add_(of_extrapolated), None, None, None


def _products(flow: Tensor, other: Tensor) -> Tensor:
    """The inner products ``(N, C, H, W)`` of two flows at each pixel."""
    return torch.addcmul(flow[0] * other[0], flow[1], other[1])


def _add_differences(flow: Tensor, images: Tensor, factor: float) -> Tensor:
    """Adds the differences to the pixels below and to the right, 0 at the edge, to a flow ``(2, N, C, H, W)`` in place."""
    flow[0][:, :, :-1].add_(images[:, :, 1:] - images[:, :, :-1], alpha=factor)
    flow[1][..., :-1].add_(images[..., 1:] - images[..., :-1], alpha=factor)
    return flow


def _plus_divergence(images: Tensor, flow: Tensor, factor: float) -> Tensor:
    """Images plus ``factor`` times the divergence of a flow, which is the negative adjoint of the differences."""
    below, right = flow.unbind(0)
    moved = torch.add(images, below, alpha=factor).add_(right, alpha=factor)
    moved[:, :, 1:].sub_(below[:, :, :-1], alpha=factor)
    moved[..., 1:].sub_(right[..., :-1], alpha=factor)
    return moved
