"""The diverse inputs iterative fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import per_image
from robustbench_cli.attacks.mi_fgsm import MIFGSM

__all__ = ["DIFGSM"]


class DIFGSM(MIFGSM):
    """MI-FGSM with gradients through a random resizing and padding of the image, anew at each step.

    With ``probability``, an image is made smaller by a random factor and put at a random place of a black image of its
    own size; the paper enlarges instead, which asks of a model that it takes larger images. With momentum it is the
    paper's M-DI2-FGSM, and with ``decay`` 0 its DI2-FGSM.
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

    def gradient(self, source: GradientSource, points: Tensor, labels: Tensor, random: Random) -> Tensor:
        resized = random.uniform(()) < self.diversity_prob
        factors = torch.where(resized, self.resize_rate + (1 - self.resize_rate) * random.uniform(()), 1)
        middles = (1 - factors)[:, None] * (2 * random.uniform((2,)) - 1)
        # From places in the padded image back to places in the image: both reach from -1 to 1.
        scale = torch.eye(2, device=points.device) / per_image(factors, points)[..., 0]
        back = torch.cat([scale, -(middles / factors[:, None])[..., None]], 2).to(points.dtype)
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            grid = functional.affine_grid(back, list(leaf.shape), align_corners=False)
            diverse = functional.grid_sample(leaf, grid, align_corners=False)
        slopes = super().gradient(source, diverse.detach(), labels, random)
        return torch.autograd.grad(diverse, leaf, slopes)[0]
