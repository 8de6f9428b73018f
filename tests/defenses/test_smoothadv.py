from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.defenses.smoothadv import SmoothAdv

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
LABELS = torch.tensor([0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize(("eps", "steps", "noises"), [(0.2, 1, 3), (0.5, 4, 2)])
def test_on_a_linear_model_of_two_classes(eps: float, steps: int, noises: int) -> None:
    """For any noise the loss grows fastest against the difference of the weights, and the image moves eps along it."""
    linear = nn.Linear(64, 2)
    classifier = nn.Sequential(nn.Flatten(), linear)
    labels = LABELS % 2
    defense = SmoothAdv(eps=eps, steps=steps, noise_samples=noises, sigma=0.3)
    moved = defense.perturb(classifier, IMAGES, labels, 0.3 * torch.randn(noises * 6, 1, 8, 8)) - IMAGES
    away = (linear.weight[1] - linear.weight[0]).detach()
    expected = eps * away / away.norm() * torch.where(labels == 0, 1, -1)[:, None]
    torch.testing.assert_close(moved.flatten(1), expected, rtol=1e-3, atol=1e-5)
    assert classifier.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in linear.parameters())


def test_it_climbs_the_loss_of_the_smoothed_model(network: Callable[[], nn.Module]) -> None:
    """The mean probability decreases for every image, within ball and box; a random step of that size does not do so."""
    classifier, noise = network(), 0.25 * torch.randn(24, 1, 8, 8)
    defense = SmoothAdv(eps=0.5, steps=8, noise_samples=4)

    def probability(images: Tensor) -> Tensor:
        with torch.no_grad():
            soft: Tensor = classifier(images.repeat(4, 1, 1, 1) + noise).softmax(1)
        return soft.view(4, 6, 10).mean(0)[torch.arange(6), LABELS]

    dark = IMAGES - 0.3
    moved = defense.perturb(classifier, dark, LABELS, noise)
    assert ((moved - dark).flatten(1).norm(dim=1) <= 0.5 * (1 + 1e-5)).all()
    assert 0 <= moved.min() <= moved.max() <= 1
    assert (moved == 0).any()
    direction = torch.randn_like(dark)
    random = dark + 0.5 * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert (probability(moved) < torch.minimum(probability(dark), probability(random))).all()


def test_the_loss_is_taken_at_the_moved_image_with_the_same_noise(network: Callable[[], nn.Module]) -> None:
    """The rows in the loss are the perturbed images plus exactly the noise of the attack."""
    recorded: list[Tensor] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, rows: Tensor) -> Tensor:
            recorded.append(rows.detach().clone())
            logits: Tensor = self.inner(rows)
            return logits

    defense = SmoothAdv(steps=2, noise_samples=3, eps=0.3)
    model = defense.randomize(Watched(), IMAGES[:1])
    loss = defense.loss(model, IMAGES, LABELS)
    assert [len(rows) for rows in recorded] == [18, 18, 18]
    moves = (recorded[2] - recorded[0]).view(3, *IMAGES.shape)
    torch.testing.assert_close(moves, moves[:1].expand_as(moves), rtol=0, atol=1e-6)
    assert moves.flatten(2).norm(dim=2).max() <= 0.3 + 1e-5
    noise = recorded[0] - IMAGES.repeat(3, 1, 1, 1)
    assert noise.std().item() == pytest.approx(0.25, rel=0.1)
    assert torch.unique(noise[:, 0, 0, 0]).numel() == 18
    (gradient,) = torch.autograd.grad(loss, [next(model.parameters())])
    assert gradient.abs().max() > 0
