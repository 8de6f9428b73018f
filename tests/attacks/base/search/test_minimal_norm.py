from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.attacks.base.search.minimal_norm import (
    BestPerturbation,
    Goal,
    linear_distance,
    without_blocked_pixels,
)
from robustbench_cli.attacks.base.threat import distance

IMAGES = torch.full((3, 1, 2, 2), 0.25)
LABELS = torch.zeros(3, dtype=torch.int64)


class Brightness(nn.Module):
    """Class 1 above a mean of one half; each row may add noise to its mean."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1) + self.noise * torch.randn(len(images))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_the_goal_is_reached_beyond_its_tolerance() -> None:
    """A lead within rounding or within the confidence is none; of several draws all must be fooled."""
    logits = torch.tensor([[[1.0, 1.0], [1.0, 1.2], [1.0, 2.0]], [[1.0, 2.0], [1.0, 1.2], [2.0, 1.0]]])
    labels = torch.zeros(3, dtype=torch.int64)
    assert Goal(targeted=False).reached(logits, labels).tolist() == [False, True, False]
    assert Goal(targeted=False, confidence=0.3).reached(logits, labels).tolist() == [False, False, False]
    assert Goal(targeted=True).reached(logits, labels + 1).tolist() == [False, True, False]
    torch.testing.assert_close(Goal(targeted=True).shortfall(logits[0], labels), torch.tensor([0.0, 0.2, 1.0]))


def test_a_hinge_of_zero_means_that_the_goal_is_reached() -> None:
    """The loss vanishes beyond twice the tolerance only."""
    leads = torch.linspace(-1e-3, 1e-3, 2001)
    logits = torch.stack([torch.zeros_like(leads), leads, torch.full_like(leads, -1)], 1)
    goal = Goal(targeted=False)
    labels = torch.zeros(len(leads), dtype=torch.int64)
    vanished = goal.hinge(logits, labels) == 0
    assert vanished.any()
    assert goal.reached(logits[None], labels)[vanished].all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_bisection_ends_at_the_boundary(norm: Norm) -> None:
    """From white images, the perturbation of a deterministic model is shortened to a third (closed form)."""
    source = EOT(Brightness())
    best = BestPerturbation(source, IMAGES, LABELS, norm, Goal(targeted=False))
    white = torch.ones_like(IMAGES)
    verdict = best.offer(white, Goal(targeted=False).measure(source.logits(white), LABELS))
    assert (verdict == -1).all()
    best.shorten()
    expected = distance(torch.full_like(IMAGES, 0.5), IMAGES, norm).float()
    torch.testing.assert_close(best.distance, expected, rtol=2 * 0.75 / 0.25 * 2.0**-10, atol=0)
    assert (best.distance >= expected).all()
    assert Goal(targeted=False).reached(source.logits(best.images), LABELS).all()


def test_the_smallest_success_is_kept() -> None:
    """A larger success, and a smaller iterate that fools nothing, change nothing; without a success the image stays."""
    source = EOT(Brightness())
    best = BestPerturbation(source, IMAGES, LABELS, "linf", Goal(targeted=False))
    assert not best.succeeded().any()
    assert torch.equal(best.images, IMAGES)
    for value in (0.9, 0.7, 0.8, 0.3):
        iterates = torch.full_like(IMAGES, value)
        iterates[2] = 0.4
        best.evaluate(iterates)
    assert best.succeeded().tolist() == [True, True, False]
    torch.testing.assert_close(best.distance, torch.tensor([0.45, 0.45, torch.inf]))
    assert torch.equal(best.images[2], IMAGES[2])


def test_a_lucky_perturbation_is_lengthened() -> None:
    """At the boundary of a noisy model half of the draws resist; the perturbation afterwards fools fresh draws."""
    model = Brightness(0.02)
    source = EOT(model, draws=4, randomized=True)
    images, labels = IMAGES[:1].expand(50, -1, -1, -1), torch.zeros(50, dtype=torch.int64)
    best = BestPerturbation(source, images, labels, "linf", Goal(targeted=False))
    best.start_from(torch.full_like(images, 0.5), torch.ones(50, dtype=torch.bool))
    best.shorten()
    wrong = torch.stack([model(best.images).argmax(1) == 1 for _ in range(50)]).double().mean()
    assert wrong > 0.95
    assert (best.distance <= 1.5 * 0.25 + 1e-6).all()


def test_an_l0_perturbation_is_not_shortened() -> None:
    """The number of its pixels does not depend on the size of their changes."""
    source = EOT(Brightness())
    best = BestPerturbation(source, IMAGES, LABELS, "l0", Goal(targeted=False))
    best.start_from(torch.ones_like(IMAGES), torch.ones(3, dtype=torch.bool))
    best.shorten()
    assert torch.equal(best.images, torch.ones_like(IMAGES))
    assert source.forwards == 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_the_linear_distance_is_the_shortfall_over_the_dual_norm(norm: Norm, scale: float) -> None:
    """Also of gradients whose squares float32 does not hold; a gradient of 0 leads nowhere."""
    gradient = scale * torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    shortfall = scale * torch.tensor([14.0, 14.0])
    dual = {"linf": 7, "l2": 5, "l1": 4, "l0": 4}[norm]
    expected = torch.tensor([14 / dual, torch.inf], dtype=torch.float64)
    torch.testing.assert_close(linear_distance(shortfall, gradient, norm), expected, rtol=1e-6, atol=0)
    assert linear_distance(-shortfall, gradient, norm)[0] == 0


def test_blocked_pixels_are_those_that_a_descent_pushes_out_of_the_box() -> None:
    """All nine combinations of slope and position, enumerated."""
    for pixel in (0.0, 0.5, 1.0):
        for slope in (-1.0, 0.0, 1.0):
            after = pixel - 0.1 * slope
            expected = slope if 0 <= after <= 1 else 0.0
            assert without_blocked_pixels(torch.tensor([slope]), torch.tensor([pixel])).item() == expected
