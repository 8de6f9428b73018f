"""The translation-invariant iterative fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.mi_fgsm import MIFGSM

__all__ = ["TIFGSM"]


class TIFGSM(MIFGSM):
    """MI-FGSM with the gradient blurred, as if it were summed up over shifted copies of the image.

    The kernel is Gaussian, of ``2 kernel_radius + 1`` pixels a side and a standard deviation of ``kernel_radius / sqrt(3)`` (section
    3.3 of the paper).
    """

    paper: ClassVar[str] = (
        "Dong, Pang, Su, Zhu: Evading Defenses to Transferable Adversarial Examples by Translation-Invariant Attacks. "
        "CVPR 2019, arXiv 1904.02884"
    )

    kernel_radius: int | None = Field(
        None,
        ge=0,
        description="pixels of the kernel on each side of its center; by default 7 for images of 299 pixels, as in the paper, in "
        "proportion for others, and at least 1",
        json_schema_extra={"formerly": "reach"},
    )

    def gradient(self, source: GradientSource, points: Tensor, labels: Tensor, random: Random) -> Tensor:
        slopes = super().gradient(source, points, labels, random)
        reach = max(1, round(7 / 299 * max(points.shape[2:]))) if self.kernel_radius is None else self.kernel_radius
        if not reach:
            return slopes
        places = torch.arange(-reach, reach + 1, device=points.device, dtype=points.dtype)
        weights = torch.exp(-(places**2) * 3 / (2 * reach**2))
        weights = weights / weights.sum()
        channels = points.shape[1]
        for kernel, padding in ((weights.view(1, 1, -1, 1), (reach, 0)), (weights.view(1, 1, 1, -1), (0, reach))):
            slopes = functional.conv2d(slopes, kernel.expand(channels, 1, -1, -1), padding=padding, groups=channels)
        return slopes
