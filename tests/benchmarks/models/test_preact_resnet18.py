from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.benchmarks.models.preact_resnet18 import PreActResNet18, preact_resnet18

from .conftest import as_trained, parameters, timm_preact


def timm_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's names for the same layers."""
    renamed = {}
    for name, tensor in weights.items():
        short = re.sub(
            r"^layer(\d)\.(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{match[2]}.", name
        ).replace("shortcut.0", "downsample.conv")
        short = re.sub(r"\.bn(\d)\.", r".norm\1.", short)
        for old, new in (("conv1.", "stem."), ("bn.", "norm."), ("linear.", "head.fc.")):
            short = new + short.removeprefix(old) if short.startswith(old) else short
        renamed[short] = tensor
    return renamed


def test_it_is_timms() -> None:
    """The same weights in timm's pre-activation ResNet give the same logits."""
    torch.manual_seed(0)
    ours = as_trained(PreActResNet18(channels=3, classes=10))
    theirs = timm_preact(timm_names(ours.state_dict()), blocks=2, channels=(64, 128, 256, 512), stem=64)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_parameter_counts_are_the_published_ones() -> None:
    """pytorch-cifar's network, without a last batch normalization, and that of Rice et al.: the classes of RobustBench 1.1.1."""
    assert parameters("preact-resnet18:no-final-bn") == 11_171_146
    assert parameters("preact-resnet18") == 11_171_146 + 2 * 512
    assert parameters("preact-resnet18:deepmind") == 12_548_426


def test_the_raw_shortcut_is_before_the_batch_normalization() -> None:
    """Only in the first block of a group does the shortcut differ, by the activation before it."""
    torch.manual_seed(0)
    model = as_trained(preact_resnet18(shape=(3, 16, 16), classes=5, argument="raw-shortcut,no-final-bn"))
    block = model.get_submodule("layer2.0")
    features = torch.randn(2, 64, 8, 8)
    inner = block.conv1(block.bn1(features).relu())  # type: ignore[operator]
    inner = block.conv2(block.bn2(inner).relu())  # type: ignore[operator]
    projected = torch.einsum("nchw,kc->nkhw", features[:, :, ::2, ::2], block.shortcut[0].weight[:, :, 0, 0])  # type: ignore[index]
    torch.testing.assert_close(block(features), inner + projected)
    assert not any(name.startswith("bn.") for name in model.state_dict())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_other_shapes(shape: tuple[int, int, int]) -> None:
    """Any number of channels, other sizes."""
    build_model("preact-resnet18", shape=shape, classes=7)
