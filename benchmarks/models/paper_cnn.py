"""The convolutional networks of the HRS paper."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from robustbench_cli.core.errors import UserError

__all__ = ["PaperCNN"]

# By the shape of the images: convolutional channels before and after the first pool, features after the second pool, width
# of the fully connected layers, dropout.
_PLANS: dict[tuple[int, int, int], tuple[int, int, int, int, float]] = {
    (1, 28, 28): (32, 64, 64 * 4 * 4, 200, 0.3),
    (3, 32, 32): (64, 128, 128 * 5 * 5, 256, 0.7),
}


class PaperCNN(nn.Sequential):
    """The networks of Wang et al. (IJCAI 2019, arXiv 1908.07116) for MNIST and CIFAR-10.

    Valid 3 x 3 convolutions: 32, 32, pool, 64, 64, pool, 200, 200, K for gray 28 x 28 images; 64, 64, pool, 128, 128,
    pool, 256, 256, K for color 32 x 32. Dropout (0.3, 0.7) follows the first fully connected layer.

    Args:
        shape: ``(1, 28, 28)`` or ``(3, 32, 32)``.
        classes: K.

    Raises:
        UserError: The paper has no network for this shape.
    """

    def __init__(self, *, shape: tuple[int, int, int], classes: int) -> None:
        if tuple(shape) not in _PLANS:
            raise UserError(
                f"paper-cnn takes images of 1x28x28 or 3x32x32, not {'x'.join(map(str, shape))}: "
                f"use small-cnn or torchvision:NAME"
            )
        first, second, features, width, dropout = _PLANS[shape]
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(shape[0], first, 3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(first, first, 3),
                relu2=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(first, second, 3),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(second, second, 3),
                relu4=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(features, width),
                relu5=nn.ReLU(),
                dropout=nn.Dropout(dropout),
                fc2=nn.Linear(width, width),
                relu6=nn.ReLU(),
                fc3=nn.Linear(width, classes),
            )
        )
