from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import EOT, ExactExpectation
from robustbench_cli.attacks.base.iterates import Streak
from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.attacks.base.search.minimal_norm import (
    BestPerturbation,
    Goal,
    dual_norms,
    linear_distance,
    norms,
    slopes,
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


class Jitter(nn.Module):
    """A linear model with three known offsets of its images as draws."""

    number_of_draws = 3
    cost_of_all_draws = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 12, generator=torch.Generator().manual_seed(0)), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T

    def all_draws(self, images: Tensor) -> Tensor:
        return torch.stack([self(images + offset) for offset in (-0.3, 0.0, 0.3)])


@pytest.mark.parametrize("hinge", [False, True])
@pytest.mark.parametrize("goal", [Goal(targeted=False), Goal(targeted=True), Goal(targeted=False, confidence=2.0)])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_the_gradient_of_a_goal_is_that_of_its_loss(hinge: bool, goal: Goal, batch_size: int | None) -> None:
    """Automatic differentiation of the mean over the draws gives the same, and the parts are those of the logits."""
    images = torch.rand(9, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(9) % 5
    model = Jitter()
    shortfall, gradient = goal.gradient(ExactExpectation(model, batch_size=batch_size), images, labels, hinge=hinge)
    leaf = images.clone().requires_grad_()
    logits = model.all_draws(leaf)
    of_label = logits.gather(2, labels.view(1, -1, 1).expand(3, -1, 1)).squeeze(2)
    others = torch.stack(
        [logits[..., [j for j in range(5) if j != label]][:, i].amax(1) for i, label in enumerate(labels)]
    )
    margins = (of_label - others.T) * (-1 if goal.targeted else 1) + goal.confidence
    loss = (margins + 2 * rounding(logits.detach())).clamp_min(0) if hinge else margins
    torch.testing.assert_close(gradient, torch.autograd.grad(loss.mean(0).sum(), leaf)[0])
    torch.testing.assert_close(shortfall.values, margins.detach())
    torch.testing.assert_close(shortfall.tolerance, rounding(logits.detach()))
    torch.testing.assert_close(shortfall.logits, logits.detach())
    assert torch.equal(shortfall.largest() < 0, goal.reached(logits.detach(), labels))
    if hinge:
        torch.testing.assert_close(shortfall.hinge(), loss.detach().mean(0))


def test_the_tolerance_of_a_gradient_in_bfloat16_is_that_of_bfloat16() -> None:
    """Its logits are converted to float32 for the loss, which makes them no more precise."""
    source = EOT(Jitter(), precision="bf16")
    images, labels = torch.rand(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64)
    shortfall, _ = Goal(targeted=False).gradient(source, images, labels)
    assert shortfall.logits.dtype == torch.bfloat16
    torch.testing.assert_close(shortfall.tolerance, rounding(shortfall.logits))


def test_a_verdict_of_samples_waits_for_several_successes() -> None:
    """1 as long as a draw is not fooled, 0 while all were fooled too few times in a row, and -1 from then on."""
    source = EOT(Brightness(), draws=2, randomized=True)
    best = BestPerturbation(source, IMAGES, LABELS, "l2", Goal(targeted=False))
    iterates = torch.stack([torch.full((1, 2, 2), value) for value in (0.3, 0.9, 0.9)])
    for offer in range(6):
        if offer == 3:
            iterates[2] = 0.3
        verdict = best.offer(iterates, Goal(targeted=False).measure(source.logits(iterates), LABELS))
        last = 1 if offer == 3 else 0
        assert verdict.tolist() == [1, 0 if offer < Streak.steps - 1 else -1, last if offer >= 3 else 0]
        if offer == 3:
            iterates[2] = 0.9
    assert best.succeeded().tolist() == [False, True, False]


def test_a_radius_shrinks_after_a_success_and_widens_otherwise() -> None:
    """All cases: no success yet; a success; a failure below and at the smallest distance; too few successes in a row."""
    source = EOT(Brightness(0.1), draws=2, randomized=True)
    best = BestPerturbation(source, IMAGES[[0] * 5], LABELS[[0] * 5], "l2", Goal(targeted=False))
    best.distance = torch.tensor([torch.inf, 2.0, 2.0, 2.0, torch.inf])
    verdict = torch.tensor([1.0, -1.0, 1.0, 1.0, 0.0])
    radius, first = torch.tensor([9.0, 3.0, 1.0, 1.95, 0.7]), torch.full((5,), 5.0)
    expected = torch.tensor([5.5, 1.8, 1.1, 2.0, 0.7])
    torch.testing.assert_close(best.next_radius(radius, first, verdict, 0.1), expected)


def test_the_nearest_of_several_rows_is_kept() -> None:
    """Of two searches for each image the smaller perturbation, and none where both failed or were larger before."""
    source, goal = EOT(Brightness()), Goal(targeted=False)
    best = BestPerturbation(source, IMAGES, LABELS, "linf", goal)
    best.start_from(torch.full_like(IMAGES, 0.6), torch.tensor([False, False, True]))
    rows = BestPerturbation(source, IMAGES[[0, 0, 1, 1, 2, 2]], LABELS[[0] * 6], "linf", goal)
    candidates = torch.tensor([0.9, 0.8, 0.7, 0.3, 0.8, 0.9]).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    rows.evaluate(candidates)
    best.keep_nearest_of(rows)
    torch.testing.assert_close(best.images[:, 0, 0, 0], torch.tensor([0.8, 0.7, 0.6]))
    torch.testing.assert_close(best.distance, torch.tensor([0.55, 0.45, 0.35]))


def test_images_without_a_success_remain() -> None:
    """They are counted at every call on a CPU; the spread shortfall of some images leaves the others unsuccessful."""
    source, goal = EOT(Brightness()), Goal(targeted=False)
    best = BestPerturbation(source, IMAGES, LABELS, "linf", goal)
    assert best.remaining().tolist() == [0, 1, 2]
    white = torch.ones_like(IMAGES)
    verdict = best.offer(white, goal.measure(source.logits(white[:1]), LABELS[:1]).spread(torch.tensor([1]), 3))
    assert verdict.tolist() == [1, -1, 1]
    assert best.remaining().tolist() == [0, 2]


@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_distances(norm: Norm) -> None:
    """Those of :func:`distance`, to rounding, for any number of dimensions before the channels."""
    differences = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    differences[:, :, :, 0] = 0
    expected = torch.stack([distance(part, torch.zeros_like(part), norm) for part in differences])
    torch.testing.assert_close(norms(differences, norm, dims=2), expected.float())


@pytest.mark.parametrize("norm", NORMS)
def test_the_dual_norm_is_the_largest_slope_of_a_step_of_length_one(norm: Norm) -> None:
    """By enumeration of the corners of the unit ball in linf and l1, and along the gradient in l2; also of tiny gradients."""
    gradient = 1e-30 * torch.tensor([3.0, -4.0, 1.0])
    corners = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    steps = {"linf": corners, "l2": (gradient / 1e-30 / 26**0.5)[None]}.get(
        norm, torch.cat([torch.eye(3), -torch.eye(3)])
    )
    expected = (steps.double() @ gradient.double()).amax()
    torch.testing.assert_close(dual_norms(gradient[None], norm)[0], expected, rtol=1e-6, atol=0)
    assert slopes(gradient[None], norm)[0].item() == pytest.approx(expected.item(), rel=1e-6)
    assert slopes(torch.zeros(1, 3), norm).item() > 0
