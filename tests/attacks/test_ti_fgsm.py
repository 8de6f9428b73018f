from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.mi_fgsm import MIFGSM
from robustbench_cli.attacks.ti_fgsm import TIFGSM

from .conftest import Victim

THREAT = Threat(norm="linf", eps=torch.ones(1))


class Colours(nn.Module):
    """Two classes of three-colored images, with a weight for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randn(2, 3 * 9 * 12)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def test_the_gradient_is_blurred_as_by_scipy() -> None:
    """Every channel by itself, by a Gaussian of standard deviation reach / sqrt(3) that is cut off at the reach."""
    source, images, labels = EOT(Colours()), torch.rand(4, 3, 9, 12), torch.tensor([0, 1, 1, 0])
    _, plain = source.gradient(images, labels, cross_entropy)
    for reach in (1, 2, 3):
        blurred = TIFGSM(kernel_radius=reach).gradient(source, images, labels, THREAT, Random(torch.arange(4)))
        sigma = (0, 0, reach / np.sqrt(3), reach / np.sqrt(3))
        expected = ndimage.gaussian_filter(plain.double().numpy(), sigma, mode="constant", radius=(0, 0, reach, reach))
        np.testing.assert_allclose(blurred.numpy(), expected, rtol=1e-3, atol=1e-6)


def test_the_reach_is_in_proportion_to_the_image(digits_victim: Victim) -> None:
    """Small images get the smallest kernel, those of the paper's size its own; none at all is the momentum method."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    found = [attack(model, images, labels, eps=0.1) for attack in (TIFGSM(), TIFGSM(kernel_radius=1))]
    assert torch.equal(*found)
    plain = TIFGSM(kernel_radius=0)(model, images, labels, eps=0.1)
    assert torch.equal(plain, MIFGSM()(model, images, labels, eps=0.1))
    assert not torch.equal(plain, found[0])
    source, large = EOT(OnePixel()), torch.rand(1, 1, 299, 299)
    spread = TIFGSM().gradient(source, large, torch.tensor([0]), THREAT, Random(torch.arange(1)))
    assert (spread != 0).sum() == 15 * 15


class OnePixel(nn.Module):
    """Two classes, told apart by one pixel."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images[:, 0, 150, 150]
        return torch.stack([pixel, -pixel], 1)
