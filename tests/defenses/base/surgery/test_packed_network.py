from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.defenses.base.surgery.packed_network import joined_tensors, pack


class Residual(nn.Module):
    """Functions instead of layers, a skip connection around the first layer, and a per-channel constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 5, bias=False)
        self.register_buffer("shift", torch.rand(1, 4, 1, 1))

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows - self.shift
        rows = functional.relu(self.norm(self.conv(rows)) + rows)
        rows = functional.max_pool2d(rows, 2)
        return self.last(torch.flatten(functional.adaptive_avg_pool2d(rows, 1), 1))


def resnet() -> nn.Module:
    return torchvision.models.resnet18(num_classes=5)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 7), nn.Tanh(), nn.Linear(7, 5))


def normalized() -> nn.Module:
    return build_model("small-cnn", shape=(1, 8, 8), classes=5, mean=(0.3,), std=(0.2,))


def paper() -> nn.Module:
    return build_model("paper-cnn", shape=(1, 28, 28), classes=5)


NETWORKS: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    Residual: (4, 6, 6),
    resnet: (3, 32, 32),
    perceptron: (4, 6, 6),
    normalized: (1, 8, 8),
    paper: (1, 28, 28),
}


def joined(networks: list[nn.Module]) -> dict[str, Tensor]:
    """The networks' tensors, concatenated, as leaves of the graph."""
    parameters = dict(networks[0].named_parameters())
    tensors = joined_tensors(networks)
    return {name: tensor.detach().requires_grad_(name in parameters) for name, tensor in tensors.items()}


@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_logits_gradients_and_statistics(build: Callable[[], nn.Module]) -> None:
    """A packed network gives each network's logits, gradients and batch statistics, in train() and in eval() mode."""
    torch.manual_seed(0)
    networks = [build().double() for _ in range(3)]
    for network in networks:
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
    tensors, packed = joined(networks), pack(networks[0], 3)
    assert packed is not None
    rows = torch.rand(4, *NETWORKS[build], dtype=torch.float64)
    weights = torch.rand(4, 3, 5, dtype=torch.float64)
    for training in (True, False):
        logits = functional_call(packed.train(training), tensors, (rows,))
        expected = torch.stack([network.train(training)(rows) for network in networks], dim=1)
        torch.testing.assert_close(logits, expected)
        parameters = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
        gradients = torch.autograd.grad((logits * weights).sum(), list(parameters.values()))
        (expected * weights).sum().backward()
        for name, gradient in zip(parameters, gradients, strict=True):
            alone = [network.get_parameter(name) for network in networks]
            torch.testing.assert_close(gradient, torch.cat([parameter.grad for parameter in alone]))
            for parameter in alone:
                parameter.grad = None
    for name, tensor in joined(networks).items():
        torch.testing.assert_close(tensors[name], tensor)


def test_networks_draw_separately() -> None:
    """Dropout of the shared input drops other pixels for each network."""
    packed = pack(nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 36, bias=False)), 2)
    assert packed is not None
    first, second = functional_call(
        packed.train(), {"2.weight": torch.eye(36).repeat(2, 1)}, (torch.ones(1, 1, 6, 6),)
    )[0]
    assert not torch.equal(first == 0, second == 0)


class SwitchesMode(nn.Module):
    """Runs other operations in train() mode."""

    def forward(self, rows: Tensor) -> Tensor:
        return functional.relu(rows) if self.training else rows


class Views(nn.Module):
    """Mixes channels by a reshape."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.view(-1, 4)


def hooked() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softmax(1)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, momentum=None)),
        nn.Sequential(nn.Linear(4, 4), nn.Flatten(0)),
        nn.Sequential(nn.Linear(4, 4), SwitchesMode()),
        nn.Sequential(nn.Conv2d(1, 4, 1), Views()),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        hooked(),
        torchvision.ops.StochasticDepth(0.5, "row"),
    ],
    ids=["layer", "softmax", "cumulative", "flattened rows", "modes", "view", "parametrized", "hook", "unknown"],
)
def test_networks_that_cannot_be_packed(network: nn.Module) -> None:
    """Layers and operations that may mix channels, and code that depends on the mode, are refused."""
    assert pack(network, 3) is None


def test_vectors_are_required(normed: Callable[[], nn.Module]) -> None:
    """A fully connected layer on feature maps raises an error, instead of mixing the networks' features."""
    for layers in ([nn.Linear(4, 4)], [nn.Conv2d(1, 2, 1), nn.Linear(4, 4)]):
        network = nn.Sequential(*layers)
        packed = pack(network, 2)
        assert packed is not None
        with pytest.raises(RuntimeError, match="take vectors only"):
            functional_call(packed, joined([network, network]), (torch.rand(3, 1, 4, 4),))
