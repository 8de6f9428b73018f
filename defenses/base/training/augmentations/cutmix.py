"""Images with a window of another image."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.defenses.base.training.augmentations.base.augmentation import Augmentation, mix

__all__ = ["CutMix"]


class CutMix(Augmentation):
    """CutMix: pastes a window of another image of the batch into an image, with labels by the share of pixels.

    The share of each window's area is drawn from Beta(``alpha``, ``alpha``), and its center uniformly; what lies outside the
    image is cut off. Each image has a window of its own. Adversarial training attacks the mixed image with the mixed label.
    """

    paper: ClassVar[str] = (
        "S. Yun, D. Han, S. J. Oh, S. Chun, J. Choe, Y. Yoo, CutMix: Regularization Strategy to Train Strong Classifiers with "
        "Localizable Features, ICCV 2019, arXiv 1905.04899; for adversarial training S. Rebuffi et al., Data Augmentation Can "
        "Improve Robustness, NeurIPS 2021, arXiv 2111.05328"
    )
    mixes_labels: ClassVar[bool] = True

    alpha: float = Field(
        1, gt=0, description="parameter of the Beta distribution of the window's share of the area; 1: uniform"
    )

    def run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        count, (height, width) = len(images), images.shape[2:]
        parameter = torch.tensor(self.alpha, device=images.device)
        side = torch.distributions.Beta(parameter, parameter).sample((count,)).sqrt()
        center_y, center_x = torch.rand(2, count, device=images.device)
        inside = _inside(side, center_y, height)[:, :, None] & _inside(side, center_x, width)[:, None, :]
        partners = torch.randperm(count, device=images.device)
        mixed = torch.where(inside[:, None], images[partners], images)
        return mixed, mix(labels, labels[partners], inside.flatten(1).float().mean(1))


def _inside(side: Tensor, center: Tensor, size: int) -> Tensor:
    """Which rows or columns of each image lie in its window.

    Args:
        side: The sides of the windows ``(B,)``, as fractions of the image's side.
        center: Their centers ``(B,)``, likewise.
        size: The image's side in pixels.

    Returns:
        ``(B, size)``.
    """
    length, middle = (side * size).floor(), (center * size).floor()
    first = middle - (length / 2).floor()
    positions = torch.arange(size, device=side.device)
    return (positions >= first[:, None]) & (positions < (first + length)[:, None])
