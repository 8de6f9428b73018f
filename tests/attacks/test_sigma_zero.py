from __future__ import annotations

import torch
from torch import nn

from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.sigma_zero import SigmaZero

from .conftest import Victim


def test_the_channels_of_a_pixel_count_as_one() -> None:
    """On color images whose label depends on one pixel, that pixel alone is changed."""

    class OnePixel(nn.Module):
        """Two classes, told apart by the sum of the channels of one pixel."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            total = images[:, :, 2, 3].sum(1) - 1.5
            return torch.stack([total, -total], 1)

    images, labels = torch.full((3, 3, 5, 5), 0.8), torch.zeros(3, dtype=torch.int64)
    perturbed = SigmaZero()(OnePixel(), images, labels)
    assert (distance(perturbed, images, "l0") == 1).all()
    assert (perturbed[:, :, 2, 3] != images[:, :, 2, 3]).all()


def test_without_a_threshold_more_pixels_change(digits_victim: Victim) -> None:
    """The threshold sets small changes to zero; where it neither starts above 0 nor rises, more pixels stay changed."""
    model, images, labels = digits_victim.model, digits_victim.images[:20], digits_victim.labels[:20]
    sparse, dense = (
        distance(attack(model, images, labels), images, "l0").mean()
        for attack in (SigmaZero(), SigmaZero(threshold=0, threshold_step=1e-9))
    )
    assert sparse < dense
