"""The evaluated images on a GPU, in 8 bits where they are of 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_cli.attacks.base.device_memory import may_stay

__all__ = ["DeviceImages"]


class DeviceImages:
    """Images that move to a GPU once, where they are cut to batches.

    Args:
        images: ``(N, C, H, W)`` floats in [0, 1].
        device: The device of the batches.
    """

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self._device = device
        self._images = images
        self._values: Tensor | None = None
        if images.device.type == device.type:
            return
        levels, values = _levels(images)
        stored = images if levels is None else levels
        if not may_stay(stored.nbytes, device):
            return
        self._images = stored.to(device)
        self._values = None if levels is None else values.to(device)

    def batch(self, indices: Tensor) -> Tensor:
        """Some of the images, on the device.

        Args:
            indices: ``(n,)`` int64, on any device.

        Returns:
            ``(n, C, H, W)``, equal to the images to the last bit.
        """
        chosen = self._images[indices.to(self._images.device)].to(self._device)
        return chosen if self._values is None else self._values[chosen.int()]


def _levels(images: Tensor) -> tuple[Tensor | None, Tensor]:
    """The images ``(N, C, H, W)`` as uint8, or ``None`` if some are not of 8 bits; and the value ``(256,)`` of each level.

    A GPU divides by 255 with another rounding than the host, so the values are looked up.
    """
    values = torch.arange(256, device=images.device, dtype=images.dtype) / 255
    levels = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    # Some images at a time: they may take gigabytes.
    for part, into in zip(images.split(256), levels.split(256), strict=True):
        into.copy_((part * 255).round())
        if not torch.equal(values[into.int()], part):
            return None, values
    return levels, values
