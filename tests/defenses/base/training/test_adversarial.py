from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.training.adversarial import (
    AttackInTraining,
    InnerPGD,
    Start,
    accuracy_under_pgd,
    ascend,
    starting_points,
)


def linear(margins: float = 1.0) -> nn.Module:
    """Two classes; the weights of their difference are 0.5 in absolute value."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.5, -0.5, 0.5, -0.5], [0.0, 0.0, 0.0, 0.0]]))
        network[1].bias.copy_(torch.tensor([margins, 0.0]))
    return network


def loss(labels: Tensor) -> object:
    return lambda logits: functional.cross_entropy(logits, labels, reduction="sum")


def test_pgd_on_a_linear_model_reaches_the_corner_of_the_ball() -> None:
    """The gradient's sign is constant, so PGD ends at ``x - eps sign(w)``, clipped to the box."""
    images, labels = torch.rand(20, 1, 2, 2), torch.zeros(20, dtype=torch.int64)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 2, 2)
    perturbed = ascend(linear(), images, loss(labels), InnerPGD(eps=0.3, steps=4, step_size=0.2))  # type: ignore[arg-type]
    torch.testing.assert_close(perturbed, (images - 0.3 * signs).clamp(0, 1))
    assert not perturbed.requires_grad


def test_starting_points() -> None:
    """They are uniform in the ball, normal around the image, or the image itself (Kolmogorov-Smirnov, level 0.001)."""
    images = torch.rand(100, 1, 5, 5)

    def from_(start: Start) -> InnerPGD:
        return InnerPGD(eps=0.2, steps=1, step_size=0.1, start=start)

    offsets = (starting_points(images, from_("ball")) - images).flatten()
    assert stats.kstest(offsets.numpy(), stats.uniform(-0.2, 0.4).cdf).pvalue > 0.001
    offsets = (starting_points(images, from_("near")) - images).flatten()
    # Adding the image rounds the small offsets.
    assert stats.kstest(offsets.double().numpy(), stats.norm(0, 0.001).cdf).pvalue > 0.001
    assert torch.equal(starting_points(images, from_("image")), images)


@pytest.mark.parametrize("training", [False, True])
def test_batch_statistics(training: bool) -> None:
    """Batch norm updates its statistics in the attack only in ``train()`` mode, and the mode is restored."""
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(4, 2)).train()
    images, labels = torch.rand(9, 1, 2, 2), torch.zeros(9, dtype=torch.int64)
    attack = InnerPGD(eps=0.1, steps=3, step_size=0.1, training=training)
    ascend(network, images, loss(labels), attack)  # type: ignore[arg-type]
    assert int(network[0].num_batches_tracked) == (3 if training else 0)
    assert all(module.training for module in network.modules())


def test_accuracy_under_pgd_of_a_linear_model() -> None:
    """An image is right exactly if its margin exceeds ``eps ||w||_1``; with eps 0 it is the clean accuracy."""
    # Pixels in [0.3, 0.7], so the box has no effect at this radius.
    images = 0.3 + 0.4 * torch.rand(400, 1, 2, 2)
    network = linear(0.2)
    with torch.no_grad():
        logits = network(images)
    margins, labels = logits[:, 0] - logits[:, 1], torch.zeros(400, dtype=torch.int64)
    batches = [(images[:150], labels[:150]), (images[150:], labels[150:])]
    for eps in (0.0, 0.1):
        expected = (margins > eps * 2).double().mean().item()
        assert 0.1 < expected < 1
        attacks = [InnerPGD(eps=eps, steps=5, step_size=0.1)] if eps else []
        assert accuracy_under_pgd(network, batches, attacks) == pytest.approx(expected)


def test_the_default_step_size() -> None:
    """It is 2.5 eps / steps, for the radius that is in effect."""
    assert AttackInTraining(eps=0.2, steps=5).pgd_step_size == pytest.approx(0.1)
    assert AttackInTraining(steps=5).pgd_step_size == pytest.approx(2.5 * 8 / 255 / 5)
    assert AttackInTraining(eps=0.2, step_size=0.03).pgd_step_size == 0.03
