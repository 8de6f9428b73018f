"""Random mirror images."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.defenses.base.training.augmentations.base.augmentation import Augmentation

__all__ = ["Flip"]


class Flip(Augmentation):
    """Horizontal flip: mirrors an image with probability ``p``."""

    paper: ClassVar[str] = (
        "A. Krizhevsky, I. Sutskever, G. Hinton, ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012; "
        "the usual augmentation for CIFAR-10"
    )
    mirrors: ClassVar[bool] = True

    p: float = Field(0.5, ge=0, le=1, description="probability that an image is mirrored")

    def run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < self.p
        return torch.where(mirrored, images.flip(3), images), labels
