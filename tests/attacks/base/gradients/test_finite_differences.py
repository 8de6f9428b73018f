from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.gradients.finite_differences import FiniteDifferences, estimated_gradient
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat

WEIGHT = torch.tensor([[3.0, -1.0], [1.0, 4.0]])
IMAGES = torch.tensor([[0.4, 0.5], [0.6, 0.3]]).view(2, 1, 1, 2)
LABELS = torch.tensor([0, 1])


class Linear(nn.Module):
    """Logits ``W x``, whose margins have the gradients ``w_y - w_j``."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ WEIGHT.T


def coordinates(count: int) -> Tensor:
    """Every coordinate direction for both images, scaled to unit mean square, as a chunk ``(2, pairs, 1, 1, 2)``."""
    return (2**0.5 * torch.eye(2)).repeat(count, 1).view(1, -1, 1, 1, 2).expand(2, -1, -1, -1, -1)


@pytest.mark.parametrize("chunks", [[1], [1, 2]])
def test_the_estimate_over_all_coordinates_is_the_gradient(chunks: list[int]) -> None:
    """Of a linear model to rounding, however the directions are cut into chunks."""
    source = gradient_source(Linear(), randomized=False)
    estimate = estimated_gradient(source, IMAGES, LABELS, map(coordinates, chunks), 0.01)
    expected = torch.stack([WEIGHT[1] - WEIGHT[0], WEIGHT[0] - WEIGHT[1]])
    torch.testing.assert_close(estimate.flatten(1), expected, rtol=1e-3, atol=1e-3)
    assert source.forwards == 2 * 2 * 2 * sum(chunks)
    assert source.backwards == 0


class Coordinates(FiniteDifferences):
    """Directions that give the exact gradient of a linear model."""

    def directions(self, shape: tuple[int, ...], random: Random) -> Tensor:
        return coordinates(shape[0] // 2)[: len(random.uniform(()))]


def test_the_ascent_reaches_the_corner_of_the_ball() -> None:
    """With the exact gradient, the best iterate in linf is the corner along the gradient's signs (closed form)."""
    source = gradient_source(Linear(), randomized=False)
    threat = Threat(norm="linf", eps=torch.full((2,), 0.04, dtype=torch.float64))
    labels = torch.tensor([1, 1])
    perturbed = Coordinates(steps=4, pairs=2).run(source, IMAGES, labels, threat, Random.of(0, IMAGES))
    torch.testing.assert_close((perturbed - IMAGES).flatten(1), torch.tensor([[0.04, -0.04]] * 2))
