from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base.wide_resnet import WideResNet

from ..conftest import as_trained, parameters, timm_preact


def timm_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's names for the same layers."""
    rules = [
        (r"^conv1\.", "stem."),
        (r"^block(\d)\.layer\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{match[2]}."),
        (r"^bn1\.", "norm."),
        (r"\.bn(\d)\.", r".norm\1."),
        (r"\.convShortcut\.", ".downsample.conv."),
        (r"^fc\.", "head.fc."),
    ]
    renamed = {}
    for name, tensor in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901 - each rule works on the result of the last
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize(
    ("spec", "count", "published"),
    [
        # Zagoruyko and Komodakis, Table 4: 36.5 M. The others: the classes of RobustBench 1.1.1.
        ("wrn-28-10", 36_479_194, 36.5),
        ("wrn-34-10", 46_160_474, 46.2),
        ("wrn-70-16", 266_796_506, 266.8),
    ],
)
def test_parameter_counts_are_the_published_ones(spec: str, count: int, published: float) -> None:
    """Neither SiLU nor the padding has parameters, so all variants have the same number."""
    assert {parameters(spec), parameters(f"{spec}:silu"), parameters(f"{spec}:deepmind")} == {count}
    assert round(count / 1e6, 1) == published


def test_wrn_28_10_is_timms() -> None:
    """The same weights in timm's pre-activation ResNet give the same logits."""
    torch.manual_seed(0)
    ours = as_trained(WideResNet(depth=28, width=10, channels=3, classes=10))
    theirs = timm_preact(timm_names(ours.state_dict()), blocks=4, channels=(160, 320, 640), stem=16)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_silu_is_in_every_place_of_relu() -> None:
    """With SiLU too the logits are timm's."""
    torch.manual_seed(1)
    ours = as_trained(WideResNet(depth=10, width=2, channels=3, classes=5, activation=nn.SiLU))
    theirs = timm_preact(timm_names(ours.state_dict()), blocks=1, channels=(32, 64, 128), stem=16, activation=nn.SiLU)
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64), (2, 32, 48)])
def test_other_shapes(shape: tuple[int, int, int]) -> None:
    """Any number of channels and any size."""
    assert WideResNet(depth=10, width=1, channels=shape[0], classes=7)(torch.rand(2, *shape)).shape == (2, 7)
