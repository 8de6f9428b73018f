"""The base class of a broken defense: a network that is trained once, and what the defense hides."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import DATASET, HonestModel
from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples

__all__ = ["BrokenDefense", "MemorizingDefense", "examples", "off_the_grid"]

_GRAY_VALUES = 17
"""The gray values of the digits."""


class BrokenDefense(nn.Module):
    """A plainly trained ``small-cnn`` for digits behind a trick that deceives attacks or their evaluation.

    It is a model as users name theirs: ``path/to/no_gradient.py:NoGradient``. The network is trained at the first use,
    in seconds, and cached.

    Args:
        shape: ``(1, 8, 8)``.
        classes: 10.

    Attributes:
        noticed_by: The checks that were made for this trick; one of them has to notice it.
        rounds: Whether the attack made for the defense rounds its pixels to the gray values of the digits.
        first_unknown: The index of the first test image of which the defense knows nothing.
        network: The network behind the trick.
    """

    trained: ClassVar[bool] = True
    noticed_by: ClassVar[tuple[str, ...]]
    rounds: ClassVar[bool] = False
    first_unknown: ClassVar[int] = 0

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__()
        assert (tuple(shape), classes) == ((1, 8, 8), 10)
        network = HonestModel().trained(seed=0)
        assert isinstance(network, nn.Sequential)
        self.network = network

    def logits(self, images: Tensor) -> Tensor:
        """The logits ``(N, 10)`` of the network for images ``(N, 1, 8, 8)``."""
        logits: Tensor = self.network(images)
        return logits

    def unmasked(self) -> nn.Module:
        """The differentiable model that the attack made for this defense follows."""
        return self.network


class MemorizingDefense(BrokenDefense):
    """Knows the first test images with their labels. The attack made for it takes the other ones."""

    first_unknown: ClassVar[int] = 250

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        images, self.labels = examples("test", self.first_unknown)
        self.images = images.flatten(1)

    def nearest(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The linf distances ``(N, 1)`` of images to the nearest known ones, and the labels of these as ``(N, 10)`` zeros and ones."""
        distances, rows = torch.cdist(images.detach().flatten(1), self.images.to(images), p=torch.inf).min(
            1, keepdim=True
        )
        return distances, one_hot(self.labels.to(images.device)[rows[:, 0]], 10)


def examples(split: SplitName, n: int | None = None) -> tuple[Tensor, Tensor]:
    """The first ``n`` digits of a split with their classes; all by default.

    >>> images, labels = examples("test", 3)
    >>> tuple(images.shape), tuple(labels.shape)
    ((3, 1, 8, 8), (3,))
    """
    data = load_dataset(DATASET).split(split)
    first = first_examples(data, len(data.labels) if n is None else n)
    return first.images, first.labels


def off_the_grid(images: Tensor) -> Tensor:
    """Which images have a pixel that is none of the gray values of the digits: ``(N, 1, 1, 1)``.

    >>> import torch
    >>> off_the_grid(torch.tensor([0.25, 0.26]).view(2, 1, 1, 1)).flatten().tolist()
    [False, True]
    """
    levels = images * (_GRAY_VALUES - 1)
    return ((levels - levels.round()).abs() > 1e-3).flatten(1).any(1)[:, None, None, None]
