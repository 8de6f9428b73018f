"""The diverse inputs iterative fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, per_image
from robustbench_cli.attacks.mi_fgsm import MIFGSM

__all__ = ["DIFGSM"]


class DIFGSM(MIFGSM):
    """MI-FGSM with gradients through a random resizing and padding of the image, drawn at every step.

    With probability ``diversity_prob``, the image is shrunk by a random factor and placed at random in a black image of
    the original size. The paper enlarges the image, which needs a model that accepts larger images. With momentum this is
    the paper's M-DI2-FGSM; with ``decay`` 0 it is DI2-FGSM.
    """

    paper: ClassVar[str] = (
        "Xie, Zhang, Zhou, Bai, Wang, Ren, Yuille: Improving Transferability of Adversarial Examples with Input "
        "Diversity. CVPR 2019, arXiv 1803.06978"
    )

    diversity_prob: float = Field(
        0.5,
        ge=0,
        le=1,
        description="probability that an image is resized and padded at a step",
        json_schema_extra={"formerly": "probability"},
    )
    resize_rate: float = Field(
        0.9,
        gt=0,
        le=1,
        description="smallest factor by which an image is resized",
        json_schema_extra={"formerly": "smallest"},
    )

    def gradient(
        self, source: GradientSource, points: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Tensor:
        resized = random.uniform(()) < self.diversity_prob
        factors = torch.where(resized, self.resize_rate + (1 - self.resize_rate) * random.uniform(()), 1)
        centers = (1 - factors)[:, None] * (2 * random.uniform((2,)) - 1)
        # Maps coordinates of the padded image to coordinates of the image, both in [-1, 1].
        scale = torch.eye(2, device=points.device) / per_image(factors, points)[..., 0]
        back = torch.cat([scale, -(centers / factors[:, None])[..., None]], 2).to(points.dtype)
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            grid = functional.affine_grid(back, list(leaf.shape), align_corners=False)
            diverse = functional.grid_sample(leaf, grid, align_corners=False)
        gradient = super().gradient(source, diverse.detach(), labels, threat, random)
        return torch.autograd.grad(diverse, leaf, gradient)[0]
