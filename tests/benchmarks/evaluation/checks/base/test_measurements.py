from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import (
    class_gaps,
    gap_gradients,
    is_repeatable,
    logits_differ,
    model_logits,
)


class Noisy(nn.Module):
    """A linear model on noisy images."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.weights = nn.Parameter(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.sigma * torch.randn_like(images)).flatten(1) @ self.weights


IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_only_draws_of_torch_are_repeatable() -> None:
    """Python's own random numbers are not."""
    assert is_repeatable(MeasuredModel(Noisy(0.1), IMAGES))
    assert not is_repeatable(MeasuredModel(lambda images: images.flatten(1) * random.random(), IMAGES))  # type: ignore[arg-type]


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_logits_and_gradients_are_those_of_the_same_draws(sigma: float) -> None:
    """A linear model: the gap between two logits is its gradient times the image, plus what the noise adds."""
    model = Noisy(sigma)
    measured = MeasuredModel(model, IMAGES)
    pairs = torch.tensor([[0, 2]]).expand(6, -1)
    logits = model_logits(measured, IMAGES)
    assert torch.equal(logits, model_logits(measured, IMAGES))
    assert torch.equal(class_gaps(logits, pairs), logits[:, 0] - logits[:, 2])
    gaps = gap_gradients(measured, IMAGES, pairs)
    assert gaps is not None
    assert torch.equal(gaps.logits, logits)
    expected = (model.weights[:, 0] - model.weights[:, 2]).detach().expand(6, -1)
    assert torch.allclose(gaps.gradients.flatten(1), expected)
    assert torch.allclose(
        (logits - IMAGES.flatten(1) @ model.weights.detach()).abs().max() > 0, torch.tensor(sigma > 0)
    )


def test_a_model_without_a_graph_has_no_gradients() -> None:
    """Its logits come from detached images."""
    detached = nn.Sequential(nn.Flatten(), nn.Threshold(1e9, 0.0))
    model = MeasuredModel(lambda images: detached(images.detach()), IMAGES)  # type: ignore[arg-type]
    assert gap_gradients(model, IMAGES, torch.tensor([[0, 1]]).expand(6, -1)) is None


def test_rounding_is_no_difference() -> None:
    """A change in the last bit of a logit is; a change of a thousandth is not."""
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    assert not logits_differ(logits, logits * (1 + 1e-7), None)
    assert logits_differ(logits, logits + 1e-3, None)
