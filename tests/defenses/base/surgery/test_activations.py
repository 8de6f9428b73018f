from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.surgery.activations import AfterActivations


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
