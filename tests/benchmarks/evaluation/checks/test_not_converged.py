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


class RareSlopes(nn.Module):
    """Two classes by the mean of the pixels, with hardly any noise. The gradient of each pixel is right in few draws, and much larger.

    In one draw of twenty it is 30 times as large as the reversed one of the other draws, so its expectation is right. With ten draws,
    none is among them with the probability 0.95^10 = 0.60, and the sign of the mean is wrong; with twenty, with 0.36.
    """

    def forward(self, images: Tensor) -> Tensor:
        slopes = torch.where(torch.rand_like(images) < 0.05, 30.0, -1.0)
        lead = ((images - images.detach()) * slopes + images.detach()).mean((1, 2, 3)) - 0.5
        return torch.stack([lead, -lead], 1) + 1e-4 * torch.randn(len(images), 2)


@pytest.fixture
def leads() -> tuple[Tensor, Tensor]:
    """Gray images, some nearer to the boundary of :class:`RareSlopes` than others, with their labels."""
    return (0.49 + 0.1 * torch.linspace(0, 1, 40)).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone(), torch.zeros(
        40, dtype=torch.int64
    )


def test_an_attack_that_more_draws_improve_had_not_converged(
    make_probe: MakeProbe, leads: tuple[Tensor, Tensor]
) -> None:
    """More steps of ten draws lead to the wrong side as well."""
    probe = make_probe(RareSlopes(), *leads, budget="standard")
    found = NotConverged("not-converged").finding_in_model(probe)
    assert found is not None
    assert found.evidence.startswith(
        "PGD with 20 draws per gradient lowers the robust accuracy of PGD with 40 steps from "
    )


@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_the_passes_of_both_attacks_are_announced(
    make_probe: MakeProbe, leads: tuple[Tensor, Tensor], noise: float
) -> None:
    """More steps: 3 restarts of 80; of a randomized model 2, and 20 draws in 40 steps. Besides, images are scored."""

    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            lead = images.mean((1, 2, 3)) + noise * torch.randn(len(images))
            return torch.stack([lead, -lead], 1)

    announced = NotConverged("not-converged").passes(make_probe(Model(), *leads, budget="standard"))
    expected = 40 * (2 * 3 * 80 if noise == 0 else 10 * 2 * 2 * 80 + 20 * 2 * 40)
    assert expected <= announced <= 1.05 * expected
