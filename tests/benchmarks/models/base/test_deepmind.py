from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base.deepmind import DeepMindPreActResNet18, DeepMindWideResNet
from robustbench_cli.benchmarks.models.base.wide_resnet import WideResNet

from ..conftest import as_trained


class Strided(nn.Module):
    """A convolution of stride 1 with every second output, from the second on: TensorFlow's padding for stride 2."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        convolution.stride = (1, 1)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.convolution(features)[:, :, 1::2, 1::2]
        return result


def test_only_the_padding_differs_from_the_wide_resnet() -> None:
    """The logits are those of a wide ResNet with SiLU whose strided convolutions are centered on the odd pixels."""
    torch.manual_seed(0)
    ours = as_trained(DeepMindWideResNet(depth=16, width=2, channels=3, classes=5))
    renamed = {}
    for name, tensor in ours.state_dict().items():
        short = re.sub(r"^layer\.(\d)\.block", lambda match: f"block{int(match[1]) + 1}.layer", name)
        short = re.sub(r"(batchnorm|conv)_(\d)", lambda match: f"{match[1]}{int(match[2]) + 1}", short)
        for old, new in (("batchnorm.", "bn1."), ("batchnorm", "bn"), ("init_conv", "conv1"), ("logits", "fc")):
            short = short.replace(old, new)
        renamed[short.replace("shortcut", "convShortcut")] = tensor
    theirs = WideResNet(depth=16, width=2, channels=3, classes=5, activation=nn.SiLU)
    theirs.load_state_dict(renamed, strict=True)
    for group in (theirs.block2, theirs.block3):
        first = group.get_submodule("layer.0")
        first.conv1 = Strided(first.conv1)  # type: ignore[assignment,arg-type]
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs.eval()(images))


def test_preact_resnet18() -> None:
    """A network written with functionals gives the same logits from the same weights."""
    torch.manual_seed(0)
    model = as_trained(DeepMindPreActResNet18(channels=1, classes=4))
    # The class of RobustBench 1.1.1 has as many for 3 channels and 10 classes, less the two differences.
    assert sum(parameter.numel() for parameter in model.parameters()) == 12_548_426 - 2 * 9 * 64 - 6 * 513
    weights = model.state_dict()

    def active(features: Tensor, name: str) -> Tensor:
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return nn.functional.silu(nn.functional.batch_norm(features, mean, variance, scale, shift))

    def conv(features: Tensor, name: str, every: int) -> Tensor:
        outputs = nn.functional.conv2d(features, weights[f"{name}.weight"], padding=1)
        return outputs if every == 1 else outputs[:, :, 1::2, 1::2]

    images = torch.rand(2, 1, 16, 16)
    features = conv(images, "conv_2d", 1)
    for group in range(4):
        for block in range(2):
            name, stride = f"layer_{group}.{block}", 2 if group and not block else 1
            inner = conv(active(features, f"{name}.batchnorm_0"), f"{name}.conv_2d_1", stride)
            inner = conv(active(inner, f"{name}.batchnorm_1"), f"{name}.conv_2d_2", 1)
            features = inner + (features if stride == 1 else conv(features, f"{name}.shortcut", stride))
    pooled = active(features, "batchnorm").mean((2, 3))
    torch.testing.assert_close(model(images), pooled @ weights["logits.weight"].T + weights["logits.bias"])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_other_shapes(shape: tuple[int, int, int]) -> None:
    """Any number of channels and any size."""
    assert DeepMindWideResNet(depth=10, width=1, channels=shape[0], classes=7)(torch.rand(2, *shape)).shape == (2, 7)
    assert DeepMindPreActResNet18(channels=shape[0], classes=7)(torch.rand(2, *shape)).shape == (2, 7)
