from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.benchmarks.certification.bounds.activations import MaxPool, Rectifier
from robustbench_cli.benchmarks.certification.bounds.network import Network
from robustbench_cli.benchmarks.models.base.build import normalized
from robustbench_cli.benchmarks.models.preact_resnet18 import preact_resnet18
from robustbench_cli.benchmarks.models.resnet18_cifar import ResNet18Cifar
from robustbench_cli.benchmarks.models.small_cnn import SmallCNN
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.noise_injection import NoiseInjection

IMAGES = torch.rand(2, 3, 8, 8)


class Functional(nn.Module):
    """Layers as functions, with an argument that has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4, 5)
        self.register_buffer("mean", torch.rand(3, 1, 1))

    def forward(self, images: Tensor, features: bool = False) -> Tensor:
        values = functional.relu((images - self.mean) / 0.5)
        values = functional.max_pool2d(functional.gelu(self.first(2 * values)), 2)
        values = values + functional.silu(self.second(values))
        values = functional.dropout(1 - values, 0.5, training=self.training)
        values = functional.adaptive_avg_pool2d(functional.avg_pool2d(values, 2), 1)
        values = values.view(values.size(0), -1)
        return values if features else self.last(torch.tanh(values))


def batch_norm_of(model: nn.Module) -> nn.Module:
    """The model with running statistics that are not the initial ones."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.rand(8, *IMAGES.shape[1:]))
    return model.eval()


@pytest.mark.parametrize(
    "make",
    [
        Functional,
        lambda: batch_norm_of(ResNet18Cifar(shape=(3, 8, 8), classes=7)),
        lambda: batch_norm_of(preact_resnet18(shape=(3, 8, 8), classes=7)),
        lambda: normalized(SmallCNN(shape=(3, 8, 8), classes=7), mean=[0.1, 0.2, 0.3], std=0.4, channels=3),
    ],
)
def test_the_operations_compute_the_logits(make: Callable[[], nn.Module]) -> None:
    """Up to rounding, and the model stays as it was."""
    model = make().eval()
    network = Network(model, IMAGES)
    with torch.no_grad():
        logits = model(IMAGES).double()
    assert network.classes == logits.shape[1]
    torch.testing.assert_close(network.logits(IMAGES.double()), logits, atol=1e-4, rtol=1e-4)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_modules_and_functions_are_the_same_operations() -> None:
    """Dropout and an identity add nothing."""
    network = Network(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Identity(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(36, 2)
        ),
        IMAGES,
    )
    kinds = [type(operation) for operation in network.operations]
    assert len(kinds) == 6
    assert (kinds[2], kinds[3]) == (Rectifier, MaxPool)
    assert network.shapes == [(3, 8, 8), (4, 6, 6), (4, 6, 6), (4, 3, 3), (36, 1, 1), (2, 1, 1)]


class Branching(nn.Module):
    """Its operations depend on the values."""

    def forward(self, values: Tensor) -> Tensor:
        return values if values.sum() > 0 else -values


class Counting(nn.Module):
    """Computes something else at each call."""

    calls = 0

    def forward(self, values: Tensor) -> Tensor:
        self.calls += 1
        return values * self.calls


class Attending(nn.Module):
    """Attention over the pixels."""

    def forward(self, values: Tensor) -> Tensor:
        return values * functional.softmax(values, dim=1)


HEAD = (nn.Flatten(), nn.Linear(192, 5))


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([Branching(), *HEAD], "its layer 0 is a Branching, whose forward pass cannot be traced"),
        ([Counting(), *HEAD], "its logits are not those of the operations that torch.fx traces"),
        (
            [nn.Conv2d(3, 3, 1), Attending(), *HEAD],
            "its layer 1 is a Attending with the operation softmax; give a network of",
        ),
        ([nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), *HEAD], "its layer 0 is a Conv2d; "),
        ([nn.BatchNorm2d(3, track_running_stats=False), *HEAD], "its layer 0 is a BatchNorm2d; "),
        ([nn.InstanceNorm2d(3), *HEAD], "its layer 0 is a InstanceNorm2d; "),
        ([nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten(), nn.Linear(48, 5)], "its layer 0 is a MaxPool2d; "),
        (
            [nn.Flatten(), nn.Unflatten(1, (3, 64)), nn.Flatten(), nn.Linear(192, 5)],
            "its layer 1 is a Unflatten with values of shape (3, 3, 64); ",
        ),
        ([nn.Conv2d(3, 3, 1)], "its output is not one row of logits per image"),
    ],
)
def test_what_cannot_be_bounded(layers: list[nn.Module], reason: str) -> None:
    """One line names the layer."""
    with pytest.raises(UserError, match="cannot be bounded by linear relaxation: ") as error:
        Network(nn.Sequential(*layers).eval(), IMAGES)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_random_layers_and_hooks_are_refused() -> None:
    """A layer that draws has no fixed function, and a hook may change an output."""
    noisy = nn.Sequential(NoiseInjection().randomize(nn.Identity(), IMAGES), *HEAD)
    with pytest.raises(UserError, match=r"its layer 0.* is a NoiseLayer, which draws at random"):
        Network(noisy.eval(), IMAGES)
    hooked = nn.Sequential(nn.ReLU(), *HEAD)
    hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match="its layer 0 has hooks"):
        Network(hooked, IMAGES)
