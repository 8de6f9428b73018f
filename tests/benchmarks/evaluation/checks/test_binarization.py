from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.base.finding import UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.binarization import Binarization, binarization_test
from robustbench_cli.defenses.hrs import SwitchingBlock

from .conftest import MakeProbe


@pytest.fixture
def many() -> Tensor:
    """Sixteen images of 12 x 12."""
    return torch.rand(16, 1, 12, 12, generator=torch.Generator().manual_seed(1))


class Rounded(nn.Module):
    """A network on images of few gray levels, whose gradient is zero."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images * 15).round() / 15)
        return logits


class Unreadable(nn.Module):
    """A network whose backward pass is another direction."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(2 * images.detach() - images)
        return logits


class Constant(nn.Module):
    """The same one-hot logits in the whole ball."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return (
            10 * nn.functional.one_hot(self.network(images).argmax(1), 10).float() + 0 * images.sum((1, 2, 3))[:, None]
        )


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1.0), ("l1", 10.0)])
def test_the_attack_passes_the_test_of_a_network(
    make_probe: MakeProbe, network: nn.Module, many: Tensor, norm: str, eps: float
) -> None:
    """It finds the point of nearly every image, and random points do of few."""
    probe = make_probe(network, many, budget="standard", norm=norm, eps=eps)
    test = binarization_test(probe)
    assert test.images >= 14
    assert test.success_rate >= 0.9
    assert test.random_success_rate <= 0.6
    assert Binarization("binarization").finding_in_model(probe) is None


def test_the_attack_passes_the_test_of_a_randomized_model(
    make_probe: MakeProbe, noisy: nn.Module, many: Tensor
) -> None:
    """Success is the share of held-out draws."""
    probe = make_probe(noisy, many, torch.zeros(16, dtype=torch.int64), budget="standard", eps=0.2)
    test = binarization_test(probe)
    assert test.images >= 8
    assert test.success_rate >= 0.9


@pytest.mark.parametrize("kind", [Rounded, Unreadable])
def test_an_attack_without_a_usable_gradient_fails(
    make_probe: MakeProbe, network: nn.Module, many: Tensor, kind: type[nn.Module]
) -> None:
    """Whether it is zero or points elsewhere."""
    found = Binarization("binarization").finding_in_model(make_probe(kind(network), many, budget="standard"))
    assert found is not None
    assert found.figures["success_rate"] < 0.3


def test_points_that_have_equal_outputs_decide_nothing(make_probe: MakeProbe, network: nn.Module, many: Tensor) -> None:
    """One-hot logits do not change in a small ball."""
    probe = make_probe(Constant(network), many, budget="standard", eps=1e-4)
    with pytest.raises(UndecidedError, match="of 16 images apart, and 8 are needed"):
        binarization_test(probe)


def test_images_whose_balls_meet_are_left_out(make_probe: MakeProbe, network: nn.Module, many: Tensor) -> None:
    """Copies of one image leave too few."""
    probe = make_probe(network, many[:1].expand(16, -1, -1, -1).clone(), budget="standard")
    with pytest.raises(UndecidedError, match="of 1 images apart, and 8 are needed"):
        binarization_test(probe)


class Switching(nn.Module):
    """A network whose rows take one of several last layers at random."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.body, self.heads = network[:3], nn.ModuleList(copy.deepcopy(network[3]) for _ in range(5))

    def forward(self, images: Tensor) -> Tensor:
        return SwitchingBlock(list(self.heads))(self.body(images))


def test_a_model_that_switches_its_last_layer_is_tested_by_its_logits(
    make_probe: MakeProbe, network: nn.Sequential, many: Tensor
) -> None:
    """Two rows often take the same layer, and more do not: the layer of a few is not that of all."""
    probe = make_probe(Switching(network), many, torch.zeros(16, dtype=torch.int64), budget="standard", eps=0.3)
    assert binarization_test(probe).success_rate >= 0.9


def test_a_model_whose_draws_no_seed_controls_is_left_out(make_probe: MakeProbe, many: Tensor) -> None:
    """The points of its images are not known."""

    class Unseeded(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            noise = torch.from_numpy(np.random.default_rng().random((len(images), 10))).to(images)
            return images.flatten(1)[:, :10] + noise

    probe = make_probe(Unseeded(), many, budget="standard")
    with pytest.raises(UndecidedError, match="the seed does not control"):
        Binarization("binarization").finding_in_model(probe)
