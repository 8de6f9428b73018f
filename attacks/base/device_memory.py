"""What of the data may stay in the memory of a GPU."""

from __future__ import annotations

import torch

__all__ = ["may_stay"]

_SHARE = 4
"""Data takes at most this part of the free memory. The rest is for the model and the passes through it."""


def may_stay(size: int, device: torch.device) -> bool:
    """Whether data may be copied to a device once, and not batch by batch.

    Args:
        size: The size of the data in bytes.
        device: The device; only a GPU has a memory of its own.
    """
    return device.type == "cuda" and _SHARE * size <= torch.cuda.mem_get_info(device)[0]
