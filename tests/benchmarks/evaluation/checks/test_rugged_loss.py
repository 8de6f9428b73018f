from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.rugged_loss import RuggedLoss

from .conftest import MakeProbe

CHECK = RuggedLoss("rugged-loss")
IMAGES, LABELS = torch.full((32, 1, 1, 1), 0.5), torch.zeros(32, dtype=torch.int64)


class Slope(nn.Module):
    """The margin is 1 at the images and has this slope in the only pixel."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        margin = 1 + self.slope * (images.flatten(1)[:, 0] - 0.5)
        return torch.stack([margin + 1, torch.ones_like(margin)], 1)


@pytest.mark.parametrize(("slope", "found"), [(0.0, False), (10.0, False), (16.0, True), (100.0, True)])
def test_the_change_is_that_of_the_noise(make_probe: MakeProbe, slope: float, found: bool) -> None:
    """The mean size of uniform noise of up to 4/255 is 2/255, so the slope of 12.75 changes the margin by a tenth."""
    finding = CHECK.finding_in_model(make_probe(Slope(slope), IMAGES, LABELS))
    assert (finding is not None) == found
    if finding is not None:
        assert finding.figures["change"] == pytest.approx(slope * 2 / 255, rel=0.1)


@pytest.mark.parametrize("scale", [0.001, 1000.0])
def test_networks_are_smooth(make_probe: MakeProbe, network: nn.Module, images: Tensor, scale: float) -> None:
    """Whatever the scale of their logits."""

    class Scaled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = scale * network(images)
            return logits

    # A margin of a network without training is small, so the images lie far from the boundary.
    labels = network(images).argmax(1)
    assert CHECK.finding_in_model(make_probe(Scaled(), images, labels)) is None


def test_the_draws_of_a_randomized_model_are_no_change(make_probe: MakeProbe) -> None:
    """Each row is measured at one draw."""

    class Noise(Slope):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + torch.randn(len(images), 1) * torch.tensor([1.0, 0.0])

    probe = make_probe(Noise(1.0), IMAGES, LABELS)
    assert probe.randomized
    assert CHECK.finding_in_model(probe) is None
