"""Weighted means of two images."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.defenses.base.training.augmentations.base.augmentation import Augmentation, mix

__all__ = ["MixUp"]


class MixUp(Augmentation):
    """MixUp: the weighted mean of an image and another one of the batch, with the same mean of their labels.

    The weight of each pair is drawn from Beta(``alpha``, ``alpha``). Adversarial training attacks the mixed image with the
    mixed label.
    """

    paper: ClassVar[str] = (
        "H. Zhang, M. Cisse, Y. Dauphin, D. Lopez-Paz, mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv 1710.09412; "
        "for adversarial training S. Rebuffi et al., Data Augmentation Can Improve Robustness, NeurIPS 2021, arXiv 2111.05328"
    )
    mixes_labels: ClassVar[bool] = True

    alpha: float = Field(0.2, gt=0, description="parameter of the Beta distribution; larger values mix more evenly")

    def run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        parameter = torch.tensor(self.alpha, device=images.device)
        share = torch.distributions.Beta(parameter, parameter).sample((len(images),))
        partners = torch.randperm(len(images), device=images.device)
        return mix(images, images[partners], share), mix(labels, labels[partners], share)
