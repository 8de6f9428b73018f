from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.base.second_attack import (
    PGDOnSurrogate,
    second_attack,
    second_attack_passes,
)

from ..conftest import MakeProbe


class Hidden(nn.Module):
    """Two classes by one pixel; no gradient leads to the boundary."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images[:, 0, 0, 0]
        return torch.stack([2 * torch.ones_like(pixel), 4 * (pixel < 0.4001)], 1) + 0 * images.sum((1, 2, 3))[:, None]


class Knowing(PGD):
    """Knows the boundary, for the first few of the images."""

    known: int

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        perturbed = images.clone()
        perturbed[: self.known] -= 0.1
        return perturbed


IMAGES, LABELS = torch.full((100, 1, 1, 1), 0.5), torch.zeros(100, dtype=torch.int64)


@pytest.mark.parametrize("broken", [0, 12, 15, 18, 19, 20, 21, 22, 25, 50])
def test_the_level_is_that_of_the_binomial_test(make_probe: MakeProbe, broken: int) -> None:
    """Of 80 images that PGD left (by scipy's binomial test)."""
    probe = make_probe(Hidden(), IMAGES[:80], LABELS[:80], eps=0.1, budget="standard")
    stronger = second_attack(probe, Knowing(known=broken), allowed=0.1)
    expected = binomtest(broken, 80, 0.1, alternative="greater").pvalue < 0.001
    assert (stronger is not None) == expected
    if stronger is not None:
        assert stronger.figures == {"broken": broken, "left": 80}


@pytest.mark.parametrize(
    ("restarted", "figures"), [(0, {"broken": 30, "left": 80}), (5, {"broken": 25, "left": 75}), (25, None)]
)
def test_what_restarts_break_too_is_no_advantage(
    make_probe: MakeProbe, restarted: int, figures: dict[str, float] | None
) -> None:
    """Of 80 images, 30 are broken by the second attack, and some of these by restarts."""
    probe = make_probe(Hidden(), IMAGES[:80], LABELS[:80], eps=0.1, budget="standard")
    stronger = second_attack(probe, Knowing(known=30), allowed=0.1, restarted=Knowing(known=restarted, steps=1))
    assert (stronger and stronger.figures) == figures


def test_nothing_is_overstated_where_next_to_nothing_is_left(make_probe: MakeProbe) -> None:
    """The baseline breaks a linear model at this radius."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    model[1].weight.data, model[1].bias.data = torch.tensor([[1.0], [-1.0]]), torch.tensor([-0.45, 0.45])
    probe = make_probe(model, IMAGES, LABELS, eps=0.1)
    assert second_attack(probe, Knowing(known=100), allowed=0.1) is None


@pytest.mark.parametrize(("std", "stronger"), [(0.02, True), (0.5, False)])
def test_draws_are_compared_on_the_same_images(make_probe: MakeProbe, std: float, stronger: bool) -> None:
    """A known boundary helps at a small noise; at a large one, where PGD and it do the same, nothing is said."""

    class Noisy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            pixel = images[:, 0, 0, 0] + std * torch.randn(len(images))
            smooth = torch.stack([pixel - 0.45, 0.45 - pixel], 1)
            return smooth if std > 0.1 else smooth.sign().detach() + 0 * images.sum((1, 2, 3))[:, None]

    probe = make_probe(Noisy(), IMAGES, LABELS, eps=0.1, budget="quick")
    assert (second_attack(probe, Knowing(known=100), allowed=0.1) is not None) == stronger


class NoisyLogits(nn.Module):
    """Two classes by one pixel, with noise in the logits that changes no class; no gradient leads to the boundary."""

    def forward(self, images: Tensor) -> Tensor:
        lead = (images[:, 0, 0, 0] - 0.4001).sign() + 0.1 * torch.randn(len(images))
        return torch.stack([lead, -lead], 1) + 0 * images.sum((1, 2, 3))[:, None]


@pytest.mark.parametrize(("known", "stronger"), [(4, False), (7, True)])
def test_the_smallest_gap_that_is_found_on_a_randomized_model(
    make_probe: MakeProbe, known: int, stronger: bool
) -> None:
    """Of twice 50 images; a sign test needs 11 images for a p-value below 0.001, and the interval of the difference 13."""
    probe = make_probe(NoisyLogits(), IMAGES, LABELS, eps=0.1, budget="standard")
    assert (second_attack(probe, Knowing(known=known), allowed=0.1) is not None) == stronger


def test_an_attack_that_is_no_better_on_the_first_images_stops(
    make_probe: MakeProbe,
) -> None:
    """It must break two of the first 50, or more; the announced cost is that of all images."""
    probe = make_probe(NoisyLogits(), IMAGES, LABELS, eps=0.1, budget="standard")
    sizes: list[int] = []

    class Counting(Knowing):
        def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
            sizes.append(len(images))
            return super().run(source, images, labels, threat, random)

    for known, expected in ((0, 50), (1, 50), (2, 100)):
        sizes.clear()
        second_attack(probe, Counting(known=known), allowed=0.1)
        assert sum(sizes) == expected
    attack = PGD(steps=5)
    assert second_attack_passes(probe, attack) == probe.passes_of(attack, 100)
    few = make_probe(NoisyLogits(), IMAGES[:40], LABELS[:40], eps=0.1, budget="standard")
    assert second_attack_passes(few, attack) == few.passes_of(attack, 40)


def test_the_surrogate_gives_the_gradients(make_probe: MakeProbe) -> None:
    """A linear one shows the way to the boundary, on all images."""
    surrogate = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    surrogate[1].weight.data, surrogate[1].bias.data = torch.tensor([[1.0], [-1.0]]), torch.zeros(2)
    probe = make_probe(Hidden(), IMAGES[:30], LABELS[:30], eps=0.1)
    stronger = second_attack(probe, PGDOnSurrogate(steps=5, surrogate=surrogate), allowed=0.1)
    assert stronger is not None
    assert stronger.figures == {"broken": 30, "left": 30}
