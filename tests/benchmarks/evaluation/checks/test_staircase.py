from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.benchmarks.evaluation.checks.staircase import Staircase, share_of_jumps

from .conftest import MakeProbe

CHECK = Staircase("staircase")


class Before(nn.Module):
    """A function before a network."""

    def __init__(self, function: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.function, self.network = function, network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.function(images))
        return logits


class Winners(nn.Module):
    """Keeps the largest tenth of its inputs (k-winner-take-all)."""

    def forward(self, values: Tensor) -> Tensor:
        least = values.flatten(1).topk(values[0].numel() // 10).values[:, -1]
        return values * (values >= least.view(-1, 1, 1, 1))


class Rounding(BPDALayer):
    """Eight levels, with the gradient of the identity."""

    def exact(self, values: Tensor) -> Tensor:
        return (7 * values).round() / 7


def convolutional(activation: nn.Module, *more: nn.Module) -> nn.Module:
    """A network of ten classes for images of 12 x 12."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3), *more, activation, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 10)
        )
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("levels", [4, 15, 255])
def test_quantizers_jump(make_probe: MakeProbe, network: nn.Module, images: Tensor, levels: int) -> None:
    """Of few levels and of 8 bits; the latter has a step in every interval too."""
    found = CHECK.finding_in_model(make_probe(Before(lambda x: (levels * x).round() / levels, network), images))
    assert found is not None
    assert found.figures["share"] > 0.5


def test_winner_take_all_jumps(make_probe: MakeProbe, images: Tensor) -> None:
    """Where another activation becomes one of the largest."""
    assert CHECK.finding_in_model(make_probe(convolutional(Winners()), images)) is not None


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh])
@pytest.mark.parametrize("scale", [0.001, 1, 1000])
def test_continuous_networks_do_not(
    make_probe: MakeProbe, images: Tensor, activation: Callable[[], nn.Module], scale: float
) -> None:
    """Whatever the size of their logits."""
    model = convolutional(activation(), nn.BatchNorm2d(8))
    model[-1].weight.mul_(scale)  # type: ignore[index,operator,union-attr]
    assert CHECK.finding_in_model(make_probe(model, images)) is None


def test_a_quantizer_with_an_approximation_does_not(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """The attack follows the approximation."""
    assert CHECK.finding_in_model(make_probe(nn.Sequential(Rounding(), network), images)) is None


@pytest.mark.parametrize(("steps", "share"), [(0, 0.0), (100, 1.0)])
def test_the_share_of_jumps(steps: int, share: float) -> None:
    """Of a slope without and with steps of a hundredth, of which every interval has six."""
    starts = torch.zeros(40, 1, 1, 1)

    class Slope(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            pixel = images.flatten(1)[:, 0]
            lead = (steps * pixel).floor() / steps if steps else pixel
            return torch.stack([lead, -lead], 1)

    assert share_of_jumps(MeasuredModel(Slope(), starts), starts, starts + 1) == share
