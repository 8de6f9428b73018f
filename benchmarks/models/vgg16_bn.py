"""VGG-16 with batch normalization for small images."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["VGG16BN"]

# The channels of the convolutions, and 0 for a pool: configuration D of the paper.
_PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


class VGG16BN(nn.Sequential):
    """VGG-16 of Simonyan and Zisserman (ICLR 2015) with batch normalization and one linear layer: 14.7 M parameters.

    It is that of kuangliu's pytorch-cifar; the weights have its names. Sides that are not divisible by 32 round up in
    the pools, and what is left after them is averaged.

    Args:
        shape: ``(C, H, W)``.
        classes: K.
    """

    def __init__(self, *, shape: tuple[int, int, int], classes: int) -> None:
        layers: list[nn.Module] = []
        inputs = shape[0]
        for outputs in _PLAN:
            if outputs:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            else:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
        super().__init__(
            OrderedDict(
                features=nn.Sequential(*layers),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classifier=nn.Linear(inputs, classes),
            )
        )
