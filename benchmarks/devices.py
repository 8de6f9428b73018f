"""Where to compute, and how much at once."""

from __future__ import annotations

import ctypes
import math
import platform

import torch

__all__ = ["automatic_batch_size", "keep_freed_memory"]

_CPU_PIXELS = 64 * 28 * 28
"""Input pixels of a batch on a CPU: 64 images of 28 x 28, whose activations in a small CNN stay in the cache."""

_CUDA_PIXELS = 4096 * 32 * 32


def automatic_batch_size(device: torch.device, shape: tuple[int, ...]) -> int:
    """Rows of images ``(C, H, W)`` to pass through a model at once: what fits a CPU's cache, or fills a GPU."""
    pixels = _CUDA_PIXELS if device.type == "cuda" else _CPU_PIXELS
    return max(1, min(4096, pixels // math.prod(shape[1:])))


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory, since page faults at every allocation can cost as much as the computation."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**30)
