"""The translation-invariant iterative fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.mi_fgsm import MIFGSM

__all__ = ["TIFGSM"]


class TIFGSM(MIFGSM):
    """MI-FGSM with a smoothed gradient, which approximates the mean gradient over translated copies of the image.

    The kernel is Gaussian with ``2 kernel_radius + 1`` pixels a side and a standard deviation of ``kernel_radius /
    sqrt(3)`` (section 3.3 of the paper).
    """

    paper: ClassVar[str] = (
        "Dong, Pang, Su, Zhu: Evading Defenses to Transferable Adversarial Examples by Translation-Invariant Attacks. "
        "CVPR 2019, arXiv 1904.02884"
    )

    kernel_radius: int | None = Field(
        None,
        ge=0,
        description="pixels of the kernel on each side of its center; by default in proportion to the image, 7 for 299 pixels as in "
        "the paper, and at least 1",
        json_schema_extra={"formerly": "reach"},
    )

    def gradient(
        self, source: GradientSource, points: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Tensor:
        gradient = super().gradient(source, points, labels, threat, random)
        radius = max(1, round(7 / 299 * max(points.shape[2:]))) if self.kernel_radius is None else self.kernel_radius
        if not radius:
            return gradient
        offsets = torch.arange(-radius, radius + 1, device=points.device, dtype=points.dtype)
        weights = torch.exp(-(offsets**2) * 3 / (2 * radius**2))
        weights = weights / weights.sum()
        channels = points.shape[1]
        for kernel, padding in ((weights.view(1, 1, -1, 1), (radius, 0)), (weights.view(1, 1, 1, -1), (0, radius))):
            gradient = functional.conv2d(gradient, kernel.expand(channels, 1, -1, -1), padding=padding, groups=channels)
        return gradient
