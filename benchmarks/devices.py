"""Where to compute, and how much at once."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["automatic_batch_size", "current", "keep_freed_memory", "limit_threads", "share_memory", "threads"]

_SMALL = 1024
"""Numbers in an image up to which one thread is enough: on two cores, a forward and backward pass of a batch takes as
long with two threads or longer, with 28 x 28 images and the paper's CNN too, and many times as long where others use
the cores.
"""

_CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_CPU_PIXELS = 64 * 28 * 28
"""Input pixels of a batch on a CPU: 64 images of 28 x 28, whose activations in a small CNN stay in the cache."""

_CUDA_PIXELS = 4096 * 32 * 32


def automatic_batch_size(device: torch.device, shape: tuple[int, ...]) -> int:
    """Rows of images ``(C, H, W)`` to pass through a model at once: what fits a CPU's cache, or fills a GPU."""
    pixels = _CUDA_PIXELS if device.type == "cuda" else _CPU_PIXELS
    return max(1, min(4096, pixels // math.prod(shape[1:])))


def limit_threads(shape: tuple[int, ...]) -> None:
    """Computes with one thread on small images ``(C, H, W)``, unless the environment says how many there are."""
    if math.prod(shape) <= _SMALL and not any(os.environ.get(name) for name in _CHOSEN_BY):
        torch.set_num_threads(1)


def threads() -> str:
    """How many threads compute on a CPU, in words."""
    number = torch.get_num_threads()
    chosen = [name for name in _CHOSEN_BY if os.environ.get(name)]
    return f"{number}, by {chosen[0]}" if chosen else f"{number}; 1 for images of up to {_SMALL} numbers"


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory, since page faults at every allocation can cost as much as the computation."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**30)


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Within it a CUDA device is the one that ``cuda`` without a number means, as a user's model may say it."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


def share_memory(device: torch.device, processes: int) -> None:
    """Keeps this process to its share of a CUDA device's memory, of which each of several would take all there is.

    So one that takes too much runs out of memory by itself, and goes on with smaller batches, where it would have taken
    the memory of the others.

    Args:
        device: Where this process computes.
        processes: How many compute there.
    """
    if device.type == "cuda" and processes > 1:
        # A tenth is for what each process needs beside its tensors.
        torch.cuda.set_per_process_memory_fraction(0.9 / processes, device)
