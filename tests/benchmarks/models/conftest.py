"""What the tests of networks share: their sizes without memory, weights as after a training, and timm's pre-activation ResNet."""

from __future__ import annotations

import torch
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from robustbench_cli.benchmarks.models import registry


def parameters(spec: str, shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> int:
    """The number of parameters of a model, without memory for them."""
    target, argument = registry.find(spec)
    options = {} if argument is None else {"argument": argument}
    with torch.device("meta"):
        network: nn.Module = target(shape=shape, classes=classes, **options)
    return sum(parameter.numel() for parameter in network.parameters())


def as_trained(network: nn.Module) -> nn.Module:
    """Gives a network's batch normalizations statistics, as a training does, and puts it in ``eval()`` mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            assert module.running_mean is not None
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.1)
    return network.eval()


def timm_preact(
    weights: dict[str, Tensor],
    *,
    blocks: int,
    channels: tuple[int, ...],
    stem: int,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Module:
    """Timm's pre-activation ResNet of basic blocks with a 3 x 3 first convolution, with given weights.

    Args:
        weights: By timm's names.
        blocks: In each group.
        channels: Of each group.
        stem: Channels of the first convolution.
        activation: After each batch normalization.
    """
    network = ResNetV2(
        [blocks] * len(channels),
        channels,
        num_classes=len(weights["head.fc.bias"]),
        basic=True,
        bottle_ratio=1,
        stem_chs=stem,
        norm_layer=BatchNormAct2d,
        act_layer=activation,
        conv_layer=create_conv2d,
    )
    network.stem = nn.Conv2d(3, stem, 3, padding=1, bias=False)
    # The head is a 1 x 1 convolution there.
    head = weights["head.fc.weight"]
    network.load_state_dict(weights | {"head.fc.weight": head[:, :, None, None]}, strict=True)
    return network.eval()
