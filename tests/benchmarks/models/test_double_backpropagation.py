"""Second derivatives of the networks of this folder, which training through input gradients needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustbench_cli.attacks.base.gradients.second_derivatives import require_second_derivative, twice_differentiable
from robustbench_cli.benchmarks.models import registry
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.benchmarks.models.base.deepmind import DeepMindWideResNet
from robustbench_cli.benchmarks.models.base.source import ModelSource
from robustbench_cli.benchmarks.models.base.wide_resnet import WideResNet
from robustbench_cli.benchmarks.models.preact_resnet18 import PreActResNet18
from robustbench_cli.benchmarks.models.robust_wrn import robust_wrn

from .conftest import as_trained

_small = partial(build_model, shape=(3, 8, 8), classes=4)


def _shallow(name: str, constant: str, value: object) -> nn.Module:
    """A network whose depth is a constant of its file."""
    with patch(f"robustbench_cli.benchmarks.models.{name.replace('-', '_')}.{constant}", value):
        return _small(name)


def _shallow_resnet18() -> nn.Module:
    network = _small("resnet18-cifar")
    network.layer3, network.layer4, network.linear = nn.Identity(), nn.Identity(), nn.Linear(128, 4)
    return network


# Large networks are thinner or shallower here.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small-cnn": partial(_small, "small-cnn"),
    "paper-cnn": partial(build_model, "paper-cnn", shape=(3, 32, 32), classes=4),
    "preact-resnet18": partial(PreActResNet18, channels=3, classes=4, width=4),
    "resnet18-cifar": _shallow_resnet18,
    "vgg16-bn": partial(_shallow, "vgg16-bn", "_PLAN", (64, 0, 128, 0)),
    "vit-small-cifar": partial(_shallow, "vit-small-cifar", "_DEPTH", 1),
    "wrn-28-10": partial(WideResNet, depth=10, width=1, channels=3, classes=4),
    "wrn-34-10:silu": partial(WideResNet, depth=10, width=1, channels=3, classes=4, activation=nn.SiLU),
    "wrn-70-16:deepmind": partial(DeepMindWideResNet, depth=10, width=1, channels=3, classes=4),
    "dsara": partial(_small, "dsara"),
    "robust-wrn": partial(robust_wrn, shape=(3, 32, 32), classes=4, argument="1x1"),
    "timm": partial(build_model, "timm:test_vit", shape=(3, 32, 32), classes=4),
    "torchvision": partial(build_model, "torchvision:squeezenet1_1", shape=(3, 32, 32), classes=4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_an_input_gradients_norm_is_that_of_finite_differences(name: str) -> None:
    """With respect to the first weights, through all layers. So a penalty on input gradients can train a network."""
    torch.manual_seed(0)
    network = as_trained(NETWORKS[name]()).double()
    size = 32 if name in {"paper-cnn", "timm", "torchvision"} else 8
    images = torch.rand(1, 3, size, size, dtype=torch.float64)
    require_second_derivative(network, images)
    weight = next(parameter for parameter in network.parameters() if parameter.dim() == 4)
    direction = torch.randn_like(weight)

    def penalty(step: float) -> Tensor:
        leaf = images.clone().requires_grad_()
        weights = {
            key: value + step * direction if value is weight else value for key, value in network.named_parameters()
        }
        with twice_differentiable():
            loss = functional_call(network, weights, leaf).logsumexp(1).sum()
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        return gradient.square().sum()

    (gradient,) = torch.autograd.grad(penalty(0), weight)
    step = 1e-7
    slope = (penalty(step) - penalty(-step)) / (2 * step)
    assert slope != 0
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-3, atol=0)


def test_every_network_is_there() -> None:
    """Sources of networks stand for one of theirs, or for networks that are here under another name."""
    named = {name.partition(":")[0] for name in NETWORKS}
    missing = set(registry.names()) - named
    assert all(issubclass(registry.load(name), ModelSource) for name in missing)
