from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.base.finding import UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.loss_path import LossPath, follow

from ..conftest import MakeProbe

IMAGES, LABELS = torch.full((10, 1, 1, 1), 0.5), torch.zeros(10, dtype=torch.int64)


class Slope(nn.Module):
    """Two classes by one pixel; class 0 above 0.3."""

    def forward(self, images: Tensor) -> Tensor:
        lead = images.flatten(1)[:, 0] - 0.3
        return torch.stack([lead, -lead], 1)


def followed(eps: float, steps: int) -> LossPath:
    """The path of PGD without a random start on ten gray pixels."""
    attack = PGD(steps=steps, random_start=False)
    source = MeasuredModel(Slope(), IMAGES).source("auto")
    threat = attack.threat(IMAGES, norm="linf", eps=eps, targeted=False)
    return follow(attack, source, IMAGES, LABELS, threat, Random.of(0, IMAGES))


@pytest.mark.parametrize("eps", [0.1, 0.4])
def test_the_path_has_the_loss_of_every_step(eps: float) -> None:
    """Also of images that are broken on the way (at 0.4): the first step reaches the surface, and the others stay there."""
    path = followed(eps, steps=4)
    assert torch.equal(path.images, IMAGES)
    assert path.ends.flatten().tolist() == pytest.approx([0.5 - eps] * 10)
    at_start, at_end = (cross_entropy(Slope()(points), LABELS, reduction="none") for points in (IMAGES, path.ends))
    assert path.losses.shape == (5, 10)
    assert torch.allclose(path.losses[0].float(), at_start)
    assert torch.allclose(path.losses[1:].float(), at_end.expand(4, -1))
    leaf = path.ends.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(Slope()(leaf), LABELS, reduction="sum"), leaf)
    assert torch.allclose(path.gradients, gradient)
    assert not path.sampled


def test_heights_are_between_the_lowest_and_the_highest_loss() -> None:
    """An image whose loss never changes is at 0."""
    losses = torch.tensor([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]], dtype=torch.float64)
    path = followed(0.1, steps=1)._replace(losses=losses)
    assert path.heights(losses).tolist() == [[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]]
    assert path.changing.tolist() == [True, False]


def test_the_probe_follows_the_images_that_the_baseline_left(make_probe: MakeProbe) -> None:
    """At 0.1 those with a pixel above 0.4."""
    images = torch.linspace(0.31, 0.6, 40).view(-1, 1, 1, 1)
    path = make_probe(Slope(), images, torch.zeros(40, dtype=torch.int64), eps=0.1).path
    assert path is not None
    assert torch.equal(path.images, images[images.flatten() > 0.4])


def test_few_images_say_nothing(make_probe: MakeProbe) -> None:
    """Five of six that are left are too few; where none is left, no robust accuracy is overstated."""
    images = torch.tensor([0.35] + [0.5] * 5).view(-1, 1, 1, 1)
    labels = torch.zeros(6, dtype=torch.int64)
    with pytest.raises(UndecidedError, match="left 5 images, of 8 needed"):
        _ = make_probe(Slope(), images, labels, eps=0.1).path
    assert make_probe(Slope(), images, labels, eps=0.3).path is None


def test_the_cost_is_announced(make_probe: MakeProbe) -> None:
    """Twenty steps and the gradient at the end, forward and backward, for 32 images and one draw."""
    probe = make_probe(Slope(), IMAGES.repeat(8, 1, 1, 1), LABELS.repeat(8), eps=0.1)
    assert probe.path_passes == 2 * 21 * 32
