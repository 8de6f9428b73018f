from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.noisy_gradient import NoisyGradient

from .conftest import MakeProbe

CHECK = NoisyGradient("noisy-gradient")
IMAGES = 0.3 + 0.4 * torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(0))


class RandomSlopes(nn.Module):
    """Two classes by a sum of the pixels whose weights are 1 plus noise, drawn for each image."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, images: Tensor) -> Tensor:
        weights = 1 + self.std * torch.randn_like(images)
        lead = 0.01 * ((images - 0.5) * weights).sum((1, 2, 3))
        return torch.stack([lead, -lead], 1)


@pytest.mark.parametrize(("std", "found"), [(0.0, False), (1.0, False), (2.0, False), (5.0, True), (20.0, True)])
def test_the_cosine_is_the_share_of_the_signal(make_probe: MakeProbe, std: float, found: bool) -> None:
    """With noise of the deviation s in each of 10 draws, the cosine is 1 / (1 + s² / 10)."""
    probe = make_probe(RandomSlopes(std), IMAGES, torch.zeros(16, dtype=torch.int64))
    finding = CHECK.finding_in_model(probe)
    assert (finding is not None) == found
    if finding is not None:
        assert finding.figures["cosine"] == pytest.approx(1 / (1 + std**2 / 10), abs=0.05)
        assert finding.evidence.startswith("two gradients over 10 draws each at the same images")


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_noise_on_the_pixels_of_a_network_is_averaged_out(
    make_probe: MakeProbe, noisy: nn.Module, seed: int
) -> None:
    """By the ten draws of an attack."""
    images = torch.rand(16, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    assert CHECK.finding_in_model(make_probe(noisy, images)) is None


def test_noise_in_the_backward_pass_alone_is_found(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """The model is deterministic, its gradient is not."""

    class Noise(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Tensor) -> Tensor:  # type: ignore[override]
            return values.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient + 10 * gradient.std() * torch.randn_like(gradient)

    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = network(Noise.apply(images))
            return logits

    finding = CHECK.finding_in_model(make_probe(Model(), images))
    assert finding is not None
    assert finding.evidence.startswith("two gradients at the same images")
