"""Random resizing and padding of the image."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import StochasticLayer

__all__ = ["RandomResizePad"]


class RandomResizePad(RandomizedDefense):
    """Random resizing and padding: each image is resized to a random side and padded with zeros at random; no training.

    The side is uniform between the smallest and that of the padded image, the image's place in it uniform too. Resizing
    takes the nearest pixel. The paper enlarges images of 299 to sides of 299 to 330 and pads them to 331:
    ``size=1.107``, for a model that takes larger images than it was trained on. With ``size=1`` the padded image is as
    large as the image was, so that any model takes it, and what is random is how much it shrinks.
    """

    paper: ClassVar[str] = (
        "Cihang Xie, Jianyu Wang, Zhishuai Zhang, Zhou Ren, Alan Yuille, Mitigating Adversarial Effects Through Randomization, "
        "ICLR 2018, arXiv 1711.01991"
    )

    size: float = Field(1.0, ge=1, le=4, description="side of the padded image, in sides of the image")
    smallest: float = Field(
        0.9, gt=0, le=1, description="smallest side of the resized image, in sides of the padded one"
    )

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        randomized = _ResizePad(copy.deepcopy(model), self.size, self.smallest)
        height, width = (_side(self.size, length) for length in example.shape[2:])
        if (height, width) != example.shape[2:]:
            with frozen(randomized), torch.no_grad():
                try:
                    randomized(example)
                except RuntimeError as error:
                    raise UserError(
                        f"random-resize-pad gives images of {height}x{width}, which {type(model).__name__} does not take: "
                        "give size 1"
                    ) from error
        return randomized


class _ResizePad(StochasticLayer):
    """Resizes and pads every image ``(N, C, H, W)`` by itself before the model; without draws, to the whole side."""

    def __init__(self, model: nn.Module, size: float, smallest: float) -> None:
        super().__init__()
        self.model = model
        self.size = size
        self.smallest = smallest

    @property
    def unwrapped_model(self) -> nn.Module:
        """See :class:`~robustbench_cli.attacks.base.models.unwrap.Wrapper`."""
        return self.model

    def forward(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        # One number for both sides, so that the image keeps its proportions.
        share = (torch.rand if self.drawing else torch.ones)(count, 1, device=images.device)
        rows, high = self._sources(share, height)
        columns, wide = self._sources(share, width)
        resized = images.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
        resized = resized.gather(3, columns[:, None, None, :].expand(-1, channels, rows.shape[1], -1))
        output: Tensor = self.model(resized * (high[:, None, :, None] & wide[:, None, None, :]))
        return output

    def _sources(self, share: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """For each place along a padded side ``(N, S)``: whence its pixel comes, and whether it is inside the image."""
        side = _side(self.size, length)
        smallest = max(1, int(self.smallest * side))
        resized = smallest + _below(share, side - smallest + 1)
        start = _below(torch.rand_like(share), side - resized + 1)
        place = torch.arange(side, device=share.device) - start
        inside = (place >= 0) & (place < resized)
        return torch.where(inside, place * length // resized, 0), inside

    def extra_repr(self) -> str:
        return f"size={self.size}, smallest={self.smallest}"


def _side(size: float, length: int) -> int:
    """The padded side for a side of ``length`` pixels."""
    return round(size * length)


def _below(share: Tensor, count: Tensor | int) -> Tensor:
    """Whole numbers in [0, count), uniform where ``share`` is uniform in [0, 1)."""
    # Rounding can make the largest share times a count the count itself.
    return torch.minimum((share * count).long(), torch.as_tensor(count, device=share.device) - 1)
