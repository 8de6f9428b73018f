from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from robustbench_cli.benchmarks.comparison import gpu_networks


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        # https://github.com/kuangliu/pytorch-cifar counts 11,173,962; the paper of wide residual networks 36.5 million.
        (gpu_networks.resnet18_cifar, 11_173_962),
        (gpu_networks.wrn_28_10, 36_5),
        (gpu_networks.resnet50, sum(parameter.numel() for parameter in resnet50(weights=None).parameters())),
    ],
)
def test_their_parameters_are_those_of_the_papers(build: Callable[[], nn.Module], parameters: int) -> None:
    """The number of weights is that of the originals."""
    count = sum(parameter.numel() for parameter in build().parameters())
    assert parameters in {count, round(count / 1e5)}


def test_logits() -> None:
    """ResNet-18 gives ten logits for each image."""
    with torch.no_grad():
        assert gpu_networks.resnet18_cifar()(torch.rand(2, 3, 32, 32)).shape == (2, 10)
