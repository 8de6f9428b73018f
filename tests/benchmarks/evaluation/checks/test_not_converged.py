from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.not_converged import NotConverged

from .conftest import MakeProbe


class OnlyFromSomeStarts(nn.Module):
    """Two classes of one pixel: right of 0.44 the loss grows to the right and breaks nothing, left of it to the left."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, 0]
        lead = torch.where(pixel < 0.44, 40 * (pixel - 0.42), 0.8 - pixel)
        return torch.stack([lead, -lead], 1)


@pytest.fixture
def half() -> Tensor:
    """Sixty images of one gray pixel."""
    return torch.full((60, 1, 1, 1), 0.5)


def test_an_attack_that_more_restarts_improve_had_not_converged(make_probe: MakeProbe, half: Tensor) -> None:
    """One start in five lies where the slope leads to the wrong region, so one of three does with probability 0.488."""
    labels = torch.zeros(60, dtype=torch.int64)
    probe = make_probe(OnlyFromSomeStarts(), half, labels, eps=0.1, budget="standard")
    found = NotConverged("not-converged").finding_in_model(probe)
    assert found is not None
    assert found.figures["robust_accuracy_longer"] <= found.figures["robust_accuracy"] - 0.02


def test_an_attack_on_a_linear_model_converges(make_probe: MakeProbe) -> None:
    """Its worst case is a corner of the ball, which one step reaches: twice the steps break nothing more."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    images = torch.rand(80, 1, 4, 4, generator=generator)
    probe = make_probe(model, images, budget="standard", eps=0.2)
    assert 0.2 < probe.baseline.summary["robust_accuracy"] < 0.8
    assert NotConverged("not-converged").finding_in_model(probe) is None
