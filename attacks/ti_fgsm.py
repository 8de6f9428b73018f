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

    The kernel is Gaussian, of ``2 reach + 1`` pixels a side and a standard deviation of ``reach / sqrt(3)`` (section
    3.3 of the paper).
    """

    paper: ClassVar[str] = (
        "Dong, Pang, Su, Zhu: Evading Defenses to Transferable Adversarial Examples by Translation-Invariant Attacks. "
        "CVPR 2019, arXiv 1904.02884"
    )

    reach: int | None = Field(
        None,
        ge=0,
        description="of the kernel, in pixels to each side; where not given, the paper's 7 for images of 299 pixels, in "
        "proportion for others, and at least 1",
    )

    def gradient(self, source: GradientSource, points: Tensor, labels: Tensor, random: Random) -> Tensor:
        slopes = super().gradient(source, points, labels, random)
        reach = max(1, round(7 / 299 * max(points.shape[2:]))) if self.reach is None else self.reach
        if not reach:
            return slopes
        places = torch.arange(-reach, reach + 1, device=points.device, dtype=points.dtype)
        weights = torch.exp(-(places**2) * 3 / (2 * reach**2))
        weights = weights / weights.sum()
        channels = points.shape[1]
        for kernel, padding in ((weights.view(1, 1, -1, 1), (reach, 0)), (weights.view(1, 1, 1, -1), (0, reach))):
            slopes = functional.conv2d(slopes, kernel.expand(channels, 1, -1, -1), padding=padding, groups=channels)
        return slopes
