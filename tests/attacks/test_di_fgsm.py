from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.losses import Loss
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.di_fgsm import DIFGSM
from robustbench_cli.attacks.mi_fgsm import MIFGSM

from .conftest import Victim

THREAT = Threat(norm="linf", eps=torch.ones(1))


class Watching(EOT):
    """Remembers the images that it is asked about."""

    def gradient(self, images: Tensor, labels: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        self.seen = images
        return super().gradient(images, labels, loss)


class Weighted(nn.Module):
    """The label's logit is minus a weighted sum of the pixels, all others 0."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, images: Tensor) -> Tensor:
        total = (images * self.weight).flatten(1).sum(1)
        return torch.stack([-total, torch.zeros_like(total)], 1)


def test_without_resizing_it_is_the_momentum_method(digits_victim: Victim) -> None:
    """With a probability of 0, or with 1 as the smallest factor, nothing is changed but rounding."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    expected = MIFGSM()(model, images, labels, eps=0.1)
    for attack in (DIFGSM(diversity_prob=0), DIFGSM(diversity_prob=1, resize_rate=1)):
        assert ((attack(model, images, labels, eps=0.1) - expected).abs() < 1e-5).double().mean() > 0.99
    assert not torch.equal(DIFGSM()(model, images, labels, eps=0.1), expected)


def test_images_are_resized_and_put_at_random_places() -> None:
    """A white image's area is the square of a factor that is uniform down to the smallest, around a uniform middle."""
    count, side = 400, 32
    images, labels = torch.ones(count, 1, side, side), torch.zeros(count, dtype=torch.int64)
    source = Watching(Weighted(torch.ones(1, side, side)))
    DIFGSM(diversity_prob=0.75, resize_rate=0.5).gradient(source, images, labels, THREAT, Random(torch.arange(count)))
    factors = source.seen.mean((1, 2, 3)).sqrt()
    whole = (factors > 0.999).double().mean()
    assert abs(whole - 0.25) < 5 * (0.25 * 0.75 / count) ** 0.5
    resized = factors[factors < 0.99]
    assert resized.min() >= 0.49
    assert abs(resized.double().mean() - 0.75) < 5 * 0.5 / (12 * len(resized)) ** 0.5 + 0.01
    # The middle of what is white, in units of how far it can be off: uniform in [-1, 1], so of variance 1 / 3.
    places = torch.linspace(-1, 1, side)
    rows = (source.seen.mean(3).squeeze(1) * places).sum(1) / source.seen.mean(3).squeeze(1).sum(1)
    off = rows[factors < 0.9] / (1 - factors[factors < 0.9])
    assert off.abs().max() < 1.1
    assert abs(off.double().mean()) < 5 / (3 * len(off)) ** 0.5
    assert abs(off.double().square().mean() - 1 / 3) < 0.1


def test_the_gradient_goes_back_through_the_resizing() -> None:
    """By finite differences of the loss of the resized image, whose place is the same for the same random numbers."""
    generator = torch.Generator().manual_seed(0)
    model = Weighted(torch.rand(1, 6, 6, generator=generator).double())
    images, labels = torch.rand(3, 1, 6, 6, generator=generator).double(), torch.zeros(3, dtype=torch.int64)
    attack = DIFGSM(diversity_prob=1, resize_rate=0.5)

    def value(images: Tensor) -> Tensor:
        source = Watching(model)
        attack.gradient(source, images, labels, THREAT, Random(torch.arange(3)))
        return functional.cross_entropy(model(source.seen), labels, reduction="none")

    slopes = attack.gradient(EOT(model), images, labels, THREAT, Random(torch.arange(3)))
    for place in range(36):
        change = torch.zeros(36, dtype=torch.float64)
        change[place] = 1e-6
        change = change.view(1, 1, 6, 6)
        difference = (value(images + change) - value(images - change)) / 2e-6
        torch.testing.assert_close(slopes.flatten(1)[:, place], difference, rtol=1e-4, atol=1e-6)
