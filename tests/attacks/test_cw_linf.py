from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy import stats

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.minimal_norm import slopes
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.cw_linf import CWLinf, _Adam

from .conftest import Linear, LinearVictim, Victim


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_it_finds_the_closed_form_distance(scale: float, linear_victim: Callable[..., LinearVictim]) -> None:
    """Of two classes every image falls, at the closed-form distance to 1 %, whatever the range of the logits."""
    victim = linear_victim(2, scale=scale)
    perturbed = CWLinf()(victim.model, victim.images, victim.labels)
    assert victim.accuracy(perturbed) == 0
    ratio = distance(perturbed, victim.images, "linf") / victim.radii("linf")
    assert ratio.min() >= 1 - 1e-5
    assert ratio.max() < 1.01


def test_a_larger_confidence_costs_distance(linear_victim: Callable[..., LinearVictim]) -> None:
    """Misclassified by the margin that was asked for, at the closed-form distance for it."""
    victim = linear_victim(2)
    slope = victim.model.get_parameter("weight").detach().diff(dim=0).abs().sum()
    for confidence in (1.0, 4.0):
        perturbed = CWLinf(confidence=confidence)(victim.model, victim.images, victim.labels)
        lead = victim.model(perturbed).detach().diff(dim=1)[:, 0] * (1 - 2 * victim.labels)
        assert (lead >= confidence).all()
        expected = victim.radii("linf") + confidence / slope
        assert (distance(perturbed, victim.images, "linf") < 1.02 * expected).all()


def test_pixels_at_the_edge_of_the_box_are_spent_on_nothing() -> None:
    """Where half of the slopes lead out of the box, the other half alone is moved, at the closed-form distance for it."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        image = torch.randint(2, (1, 1, 6, 6), generator=generator).float()
        slope = (1 + 5 * torch.rand(36, generator=generator)) * torch.randn(36, generator=generator).sign()
        movable = (slope > 0) == (image.flatten() == 0)
        gap = 0.2 * slope[movable].abs().sum()
        weight = torch.stack([torch.zeros(36), slope])
        model = Linear(weight, torch.stack([torch.tensor(0.0), -gap - slope @ image.flatten()]))
        perturbed = CWLinf()(model, image, torch.tensor([0]))
        assert model(perturbed).argmax(1) == 1
        assert distance(perturbed, image, "linf").item() == pytest.approx(0.2, rel=0.02)
        assert not (perturbed - image).flatten()[~movable].any()


def test_the_penalty_holds_the_largest_change_down(digits_victim: Victim) -> None:
    """With next to no penalty, which leaves the margin alone to be minimized, more perturbations are larger than smaller.

    By a sign test of the images at a level of 1e-6.
    """
    images, labels = digits_victim.images, digits_victim.labels
    free, held = (
        distance(CWLinf(steps=50, penalty=penalty)(digits_victim.model, images, labels), images, "linf")
        for penalty in (1e-6, 2.0)
    )
    smaller = int((held < free).sum())
    assert stats.binomtest(smaller, int((held != free).sum()), alternative="greater").pvalue < 1e-6


def test_the_directions_are_adams() -> None:
    """Those of ``torch.optim.Adam`` at a learning rate of 1, for every image by itself, whatever the gradient's scale."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(3, 1, 4, 4)
    scales = torch.tensor([1e-30, 1.0, 1e30]).view(3, 1, 1, 1)
    ours = _Adam(images)
    parameter = torch.nn.Parameter(images.clone())
    theirs = torch.optim.Adam([parameter], lr=1.0, betas=(0.0, 0.5), eps=1e-8)
    for _ in range(5):
        gradient = torch.randn(images.shape, generator=generator)
        before = parameter.detach().clone()
        parameter.grad = gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        theirs.step()
        scaled = gradient * scales
        direction = ours.direction(scaled, slopes(scaled, "linf"))
        torch.testing.assert_close(direction, before - parameter.detach(), rtol=1e-4, atol=1e-5)


def test_passes_are_counted(linear_victim: Callable[..., LinearVictim]) -> None:
    """A gradient a step; beside them one look at the last iterate, and ten at shorter perturbations."""
    victim = linear_victim(3)
    source = EOT(victim.model.requires_grad_(False))
    threat = Threat(norm="linf", eps=torch.full((24,), torch.inf, dtype=torch.float64))
    CWLinf(steps=7).run(source, victim.images, victim.labels, threat, Random.of(0, victim.images))
    assert source.backwards == 24 * 7
    assert source.forwards == 24 * (7 + 1 + 10)
