from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.latent import Latent
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import UserError

from .conftest import Victim


class Coded(nn.Module):
    """A network whose decoder spans some directions of the pixels.

    Args:
        network: Computes the logits.
        directions: ``(d, P)``, orthonormal; latents are coordinates along them.
    """

    def __init__(self, network: nn.Module, directions: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("directions", directions)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def latents_of(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.directions.T

    def images_of(self, latents: Tensor) -> Tensor:
        return (latents @ self.directions).unflatten(1, (1, 8, 8))


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))


def test_the_optimum_on_a_linear_model() -> None:
    """In l2 and without clipping, the logits change by eps times the length of their difference inside the decoder's span."""
    network = linear()
    directions = torch.linalg.qr(torch.randn(64, 5))[0].T
    images = torch.full((1, 1, 8, 8), 0.5)
    label, eps = network(images).argmax(1), 0.02
    perturbed = Latent(steps=60, step_size=0.05)(Coded(network, directions), images, label, norm="l2", eps=eps)
    difference = network[1].weight[1 - label] - network[1].weight[label]
    reachable = eps * (difference @ directions.T).norm()
    gained = (network(perturbed) - network(images)) @ torch.tensor([-1.0, 1.0]) * (1 - 2 * label)
    torch.testing.assert_close(gained, reachable.expand(1), rtol=2e-3, atol=0)
    change = (perturbed - images).flatten(1)
    torch.testing.assert_close(change @ directions.T @ directions, change, rtol=1e-4, atol=1e-6)


def test_the_reconstruction_error_has_no_part(trained_on_digits: Victim) -> None:
    """A decoder that gives gray images, whatever the latent is, leaves the images as they are."""

    class Gray(Coded):
        def images_of(self, latents: Tensor) -> Tensor:
            return 0.5 + 0 * super().images_of(latents)

    model = Gray(trained_on_digits.model, torch.eye(64))
    images, labels = trained_on_digits.images[:5], trained_on_digits.labels[:5]
    assert torch.equal(Latent(steps=3)(model, images, labels, norm="linf", eps=0.3), images)


def test_with_pixels_as_latents_it_is_nearly_as_strong_as_pgd(trained_on_digits: Victim) -> None:
    """A model without a decoder, and one whose decoder is the identity, fall alike, about as often as under PGD in l2."""
    model, images, labels = trained_on_digits.model, trained_on_digits.images, trained_on_digits.labels
    attack = Latent()
    perturbed = attack(model, images, labels, norm="l2", eps=0.8)
    assert torch.equal(attack(Coded(model, torch.eye(64)), images, labels, norm="l2", eps=0.8), perturbed)
    assert (
        trained_on_digits.accuracy(perturbed)
        <= trained_on_digits.accuracy(PGD()(model, images, labels, norm="l2", eps=0.8)) + 0.1
    )


def test_decoders_that_do_not_fit() -> None:
    """Latents of another size, and images of another shape, are usage errors in one line."""
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])

    class Cropped(Coded):
        def images_of(self, latents: Tensor) -> Tensor:
            return super().images_of(latents)[:, :, :4]

    with pytest.raises(UserError, match="the decoder of Cropped gives images of 1x4x8: it must give 1x8x8"):
        Latent()(Cropped(linear(), torch.eye(64)), images, labels, norm="linf", eps=0.1)

    class Short(Coded):
        def latents_of(self, images: Tensor) -> Tensor:
            return super().latents_of(images)[:, :3]

    with pytest.raises(
        UserError, match=r"the decoder of Short does not take its latents of shape \(3,\) \(RuntimeError"
    ):
        Latent()(Short(linear(), torch.eye(64)), images, labels, norm="linf", eps=0.1)
