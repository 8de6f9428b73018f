"""Random resizing and padding of the image."""

from __future__ import annotations

import copy
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import UserError, is_out_of_memory, one_line
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import StochasticLayer

__all__ = ["RandomResizePad"]


class RandomResizePad(RandomizedDefense):
    """Random resizing and padding: each image gets a random size and random zero padding; no training.

    The size is uniform between the smallest size and that of the padded image. The offset is uniform too. Resizing uses
    nearest-neighbor interpolation. The paper resizes images of 299 pixels to 299 to 330 and pads them to 331. This is
    ``size=1.107`` and needs a model that accepts larger images. With ``size=1`` the padded image has the original size, so
    every model accepts it, and images only shrink.
    """

    paper: ClassVar[str] = (
        "Cihang Xie, Jianyu Wang, Zhishuai Zhang, Zhou Ren, Alan Yuille, Mitigating Adversarial Effects Through Randomization, "
        "ICLR 2018, arXiv 1711.01991"
    )
    family: ClassVar[str] = "random-input"

    size: float = Field(1.0, ge=1, le=4, description="side of the padded image, relative to the image")
    min_size: float = Field(
        0.9,
        gt=0,
        le=1,
        description="smallest side of the resized image, relative to the padded image",
        json_schema_extra={"formerly": "smallest"},
    )

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        randomized = _ResizePad(copy.deepcopy(model), self.size, self.min_size)
        height, width = (_side(self.size, length) for length in example.shape[2:])
        if (height, width) != example.shape[2:]:
            with frozen(randomized), torch.no_grad():
                try:
                    randomized(example)
                except RuntimeError as error:
                    if is_out_of_memory(error):
                        raise
                    raise UserError(
                        f"random-resize-pad makes images of {height}x{width}, which {type(model).__name__} does not accept: "
                        f"give size 1 ({one_line(error)})"
                    ) from error
        return randomized


class _ResizePad(StochasticLayer):
    """Resizes and pads every image ``(N, C, H, W)`` independently; without draws, to the full padded size."""

    def __init__(self, model: nn.Module, size: float, min_size: float) -> None:
        super().__init__()
        self.model = model
        self.size = size
        self.min_size = min_size

    @property
    def unwrapped_model(self) -> nn.Module:
        """See :class:`~robustbench_cli.attacks.base.models.unwrap.Wrapper`."""
        return self.model

    def forward(self, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        # One number for both sides keeps the aspect ratio.
        uniform = (torch.rand if self.drawing else torch.ones)(count, 1, device=images.device)
        shifts = [torch.rand_like(uniform) for _ in range(2)]
        if height == width:
            sources, inside = (part.unbind() for part in self._sources(uniform, torch.stack(shifts), height))
        else:
            sources, inside = zip(*map(partial(self._sources, uniform), shifts, (height, width)), strict=True)
        rows, columns = sources[0][:, None, :, None], sources[1][:, None, None, :]
        resized = images.gather(2, rows.expand(-1, channels, -1, width))
        resized = resized.gather(3, columns.expand(-1, channels, rows.shape[2], -1))
        output: Tensor = self.model(resized * (inside[0][:, None, :, None] & inside[1][:, None, None, :]))
        return output

    def _sources(self, uniform: Tensor, shift: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The index of the source pixel of each pixel along a padded side ``(..., N, S)``, and whether it is inside the image.

        Args:
            uniform: ``(N, 1)`` in [0, 1], determines the resized length.
            shift: ``(..., N, 1)`` in [0, 1), determines the offset of the resized image.
            length: The length of the original side.
        """
        side = _side(self.size, length)
        smallest = max(1, int(self.min_size * side))
        # Products of a uniform number and a count can round up to the count.
        resized = (uniform * (side - smallest + 1)).long().clamp_max_(side - smallest).add_(smallest)
        offset = (shift * (side + 1 - resized)).long().minimum(side - resized)
        position = torch.arange(side, device=uniform.device) - offset
        inside = (position >= 0) & (position < resized)
        return (position * length).div_(resized, rounding_mode="floor").mul_(inside), inside

    def extra_repr(self) -> str:
        return f"size={self.size}, min_size={self.min_size}"


def _side(size: float, length: int) -> int:
    """The length of the padded side, for a side of ``length`` pixels."""
    return round(size * length)
