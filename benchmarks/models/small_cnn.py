"""A small network for images of any shape, which trains in seconds."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from robustbench_cli.core.errors import UserError

__all__ = ["SmallCNN"]


class SmallCNN(nn.Sequential):
    """Padded 3 x 3 convolutions 16, 16, pool, 32, pool; then 64 and K fully connected; ReLU throughout.

    Args:
        shape: ``(C, H, W)``, H and W at least 8.
        classes: K.

    Raises:
        UserError: H or W is below 8.
    """

    def __init__(self, *, shape: tuple[int, int, int], classes: int) -> None:
        channels, height, width = shape
        if min(height, width) < 8:
            raise UserError(f"small-cnn takes images of 8x8 and larger, not {height}x{width}: give larger ones")
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, 16, 3, padding=1),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(16, 16, 3, padding=1),
                relu2=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(16, 32, 3, padding=1),
                relu3=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(32 * (height // 2 // 2) * (width // 2 // 2), 64),
                relu4=nn.ReLU(),
                fc2=nn.Linear(64, classes),
            )
        )
