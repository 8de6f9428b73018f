from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.hidden_layer import HiddenLayer, full_name, last_linear
from robustbench_cli.core.errors import UserError

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))


def test_values_are_copied_before_the_next_layer_writes_into_them() -> None:
    """They are those of the layer alone, also before a ReLU that works in place; no hook stays."""
    model = network()
    with HiddenLayer("1").captured(model) as outputs, HiddenLayer("3", before=True).captured(model) as inputs:
        model(IMAGES)
        model(1 - IMAGES)
    for runs, first in ((outputs, model[:2]), (inputs, model[:3])):
        torch.testing.assert_close(runs, [first(IMAGES), first(1 - IMAGES)])
    assert HiddenLayer("1").width(model, IMAGES, parameter="layer") == 5
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class _Classes(nn.Module):
    """Whole numbers for each image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).argmax(1, keepdim=True)


class Odd(nn.Module):
    """A network with layers that have no representation."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 3, batch_first=True)
        self.unused = nn.Linear(2, 2)
        self.mean = nn.Flatten(0)
        self.classes = _Classes()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        self.mean(images)
        self.classes(images)
        logits: Tensor = self.head(self.recurrent(images[:, 0])[0][:, -1])
        return logits


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("recurent", r"^x\.layer is 'recurent', no layer of the network: did you mean 'recurrent'"),
        ("recurrent", r"^x\.layer is 'recurrent', which gives a tuple: give a layer whose output is one tensor$"),
        ("unused", r"^x\.layer is 'unused', which the forward pass does not run: give a layer that it runs$"),
        ("mean", r"^x\.layer is 'mean', which gives \(192,\) for 3 images: give a layer with a row per image$"),
        (
            "classes",
            r"^x\.layer is 'classes', which gives torch\.int64: give a layer whose output has floating-point numbers$",
        ),
    ],
)
def test_layers_without_a_representation(layer: str, message: str) -> None:
    """An unknown layer, one that gives several tensors, one that does not run, one that joins the images, one of whole numbers."""
    with pytest.raises(UserError, match=message):
        HiddenLayer(layer).width(Odd(), IMAGES, parameter="x.layer")


def test_the_last_linear_layer() -> None:
    """It is the classifier of a known network, and ``None`` without a linear layer."""
    resnet = torchvision.models.get_model("resnet18", weights=None, num_classes=3)
    assert last_linear(resnet, torch.rand(1, 3, 32, 32)) == "fc"
    assert last_linear(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), IMAGES[:1]) is None
    assert resnet.training


def test_a_name_inside_a_wrapper() -> None:
    """The end of one module's name is enough; one that several have, or none, stays as it is."""
    wrapped = nn.Sequential(nn.ModuleDict({"relu": nn.ReLU(), "fc": nn.Linear(1, 1)}), nn.ModuleDict({"fc": nn.ReLU()}))
    assert [full_name(wrapped, name) for name in ("relu", "0.fc", "fc", "1", "none")] == [
        "0.relu",
        "0.fc",
        "fc",
        "1",
        "none",
    ]
