"""Small networks with other layers than ``small-cnn`` has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["AveragePooling", "BatchNormResNet", "Gelu", "Silu", "Strided", "Tanh", "VisionTransformer"]


class _Strided(nn.Sequential):
    """Two strided convolutions and two linear layers, with one kind of activation.

    Args:
        activation: The class of the activation.
        shape: ``(C, 8, 8)``.
        classes: K.
    """

    def __init__(self, activation: type[nn.Module], shape: Any, classes: int) -> None:
        super().__init__(
            nn.Conv2d(shape[0], 16, 3, padding=1),
            activation(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(32 * (shape[1] // 2) * (shape[2] // 2), 64),
            activation(),
            nn.Linear(64, classes),
        )


class Strided(_Strided):
    """A convolutional network with ReLU and without pooling."""

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(nn.ReLU, shape, classes)


class Gelu(_Strided):
    """A convolutional network with GELU."""

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(nn.GELU, shape, classes)


class Silu(_Strided):
    """A convolutional network with SiLU."""

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(nn.SiLU, shape, classes)


class Tanh(_Strided):
    """A convolutional network with tanh."""

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(nn.Tanh, shape, classes)


class AveragePooling(nn.Sequential):
    """A convolutional network with average pooling."""

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(
            nn.Conv2d(shape[0], 16, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (shape[1] // 4) * (shape[2] // 4), classes),
        )


class _Block(nn.Module):
    """Two convolutions with batch normalization, and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(features + self.residual(features))


class BatchNormResNet(nn.Sequential):
    """A residual network with batch normalization."""

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(
            nn.Conv2d(shape[0], 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            _Block(16),
            nn.MaxPool2d(2),
            _Block(16),
            nn.Flatten(),
            nn.Linear(16 * (shape[1] // 2) * (shape[2] // 2), classes),
        )


class VisionTransformer(nn.Module):
    """A vision transformer of two blocks on patches of 2 x 2 pixels."""

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__()
        width = 32
        self.patches = nn.Conv2d(shape[0], width, 2, stride=2)
        self.position = nn.Parameter(0.02 * torch.randn(1, (shape[1] // 2) * (shape[2] // 2), width))
        self.blocks = nn.Sequential(*(_AttentionBlock(width) for _ in range(2)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, 8, 8)`` to logits ``(N, K)``."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.blocks(tokens).mean(1))
        return logits


class _AttentionBlock(nn.Module):
    """Attention of two heads and a perceptron, each after a layer normalization and with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        heads = self.queries(self.before_attention(tokens)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        tokens = tokens + self.merge(attended.transpose(1, 2).flatten(2))
        result: Tensor = tokens + self.perceptron(self.before_perceptron(tokens))
        return result
