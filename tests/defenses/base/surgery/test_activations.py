from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.activations import AfterActivations, ReplacedReLUs, channels_of_relus


class Counted(nn.Module):
    """Counts its calls and returns its input."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, activations: Tensor) -> Tensor:
        self.count += 1
        return activations


class EveryWay(nn.Module):
    """Calls activations as modules and as functions, in place and not, behind a branch that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.ReLU()
        self.in_place = nn.ReLU6(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.in_place(self.module(images))
        if images.sum() > 0:
            rows = torch.relu(functional.gelu(rows).tanh())
        return rows.sigmoid().flatten(1).softmax(1)


def test_every_activation_is_seen_once() -> None:
    """Modules, functions and methods count. Sigmoid, softmax and calls outside the model do not."""
    counted = Counted()
    model = EveryWay()
    images = torch.rand(2, 1, 3, 3)
    assert torch.equal(AfterActivations(model, counted)(images), model(images))
    assert counted.count == 5


@pytest.mark.parametrize(("name", "functions"), [("resnet18", 0), ("densenet121", 1), ("mobilenet_v3_small", 0)])
@torch.no_grad()
def test_architectures(name: str, functions: int) -> None:
    """The number of activations is that of torchvision's modules and functional calls; the output stays the same."""
    counted, calls = Counted(), 0
    model = torchvision.models.get_model(name, weights=None, num_classes=3).eval()
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(AfterActivations(model, counted)(images), model(images))

    def call(*_: object) -> None:
        nonlocal calls
        calls += 1

    for module in model.modules():
        if isinstance(module, nn.ReLU | nn.Hardswish):
            module.register_forward_hook(call)
    model(images)
    assert counted.count == calls + functions > 0


def with_relus_again(model: nn.Module, images: Tensor) -> nn.Module:
    return ReplacedReLUs(model, [nn.ReLU() for _ in channels_of_relus(model, images)])


@pytest.mark.parametrize(("name", "count"), [("resnet18", 17), ("densenet121", 121)])
@torch.no_grad()
def test_relus_are_replaced_in_the_order_of_their_calls(name: str, count: int) -> None:
    """ResNet-18 calls one module twice in each block, DenseNet-121 has a call without a module; the output stays the same."""
    model = torchvision.models.get_model(name, weights=None, num_classes=3).eval()
    images = torch.rand(1, 3, 32, 32)
    replaced = with_relus_again(model, images)
    assert torch.equal(replaced(images), model(images))
    assert len(channels_of_relus(model, images)) == count
    assert channels_of_relus(model, images)[:2] == [64, 64]


def test_only_relus_on_feature_maps_are_replaced() -> None:
    """Behind a fully connected layer, and of another kind, an activation stays."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.SiLU(), nn.Flatten(), nn.Linear(18, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    images = torch.rand(2, 1, 5, 5)
    expected = model[6](model[5](model[4](model[3](model[2](2 * model[0](images))))))
    assert channels_of_relus(model, images) == [2]
    assert torch.equal(ReplacedReLUs(model, [Doubled()])(images), expected)


@pytest.mark.parametrize(
    "call",
    [
        torch.relu_,
        Tensor.relu_,
        lambda maps: functional.relu(maps, True),
        lambda maps: functional.relu(maps, inplace=True),
    ],
)
def test_a_model_may_go_on_with_the_input_of_a_relu_in_place(call: Callable[[Tensor], Tensor]) -> None:
    class InPlace(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            maps = images - 0.5
            call(maps)
            return maps.flatten(1)

    images = torch.rand(2, 1, 3, 3, requires_grad=True)
    logits = ReplacedReLUs(InPlace(), [Doubled()])(images)
    torch.testing.assert_close(logits, 2 * (images - 0.5).flatten(1))
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert (gradient == 2).all()


class Doubled(nn.Module):
    """Twice its input."""

    def forward(self, features: Tensor) -> Tensor:
        return 2 * features


def test_a_model_that_calls_more_relus_in_another_pass_is_refused() -> None:
    class Sometimes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images.relu() if images.sum() > 0 else images.relu().relu()).flatten(1)

    replaced = with_relus_again(Sometimes(), torch.ones(1, 1, 2, 2))
    with pytest.raises(UserError, match=r"^the model does not call ReLU equally often in every pass"):
        replaced(-torch.ones(1, 1, 2, 2))
