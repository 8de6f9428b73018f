"""Devices: batch sizes, threads and memory."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = [
    "automatic_batch_size",
    "current",
    "device_name",
    "keep_freed_memory",
    "limit_threads",
    "threads",
    "use_share",
    "worker_environment",
]

_SMALL = 1024
"""The most values of an image for which one thread is used. On two cores, a forward and backward pass of such images takes no
less time with two threads (28 x 28 images and the paper's CNN), and much more if other processes use the cores.
"""

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""The variables of torch's allocator; it takes the first that is set."""

_CPU_PIXELS = 64 * 28 * 28
"""Input pixels of a batch on a CPU: 64 images of 28 x 28, whose activations in a small CNN fit into the cache."""

_FEW = 8
"""The rows of a batch of larger images on a CPU: ResNet-18 takes 1.25 times as long at 224 x 224 with one row at a time."""

_FEW_PIXELS = _FEW * 256 * 256

_CUDA_ROWS = 4096

_CUDA_BYTES = 4096
"""Free memory of a GPU for each input pixel of a batch. ResNet-50 keeps activations of 1.7 KiB for the gradient at its input."""


def automatic_batch_size(device: torch.device, shape: tuple[int, ...]) -> int:
    """The usual batch size for images of a shape: it fits a CPU's cache, or the free memory of a GPU.

    Args:
        device: The device.
        shape: ``(C, H, W)``.
    """
    pixels = math.prod(shape[1:])
    if device.type == "cuda":
        return max(1, min(_CUDA_ROWS, _free_memory(device) // (_CUDA_BYTES * pixels)))
    return max(1, min(4096, _CPU_PIXELS // pixels), min(_FEW, _FEW_PIXELS // pixels))


def _free_memory(device: torch.device) -> int:
    """The free bytes of a GPU, those included that this process has reserved and does not use."""
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    # Processes that share a GPU are limited to their parts of it.
    limit = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return min(free, limit - reserved) + reserved - torch.cuda.memory_allocated(device)


def device_name(device: torch.device) -> str:
    """The name of a GPU, or ``"cpu"``.

    Args:
        device: The device.
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def limit_threads(shape: tuple[int, ...]) -> None:
    """Sets one thread for small images, unless the environment sets the number of threads.

    Args:
        shape: ``(C, H, W)`` of the images.
    """
    if math.prod(shape) <= _SMALL and not any(os.environ.get(name) for name in _VARIABLES):
        torch.set_num_threads(1)


def threads() -> str:
    """The number of threads on a CPU and its reason, as text."""
    number = torch.get_num_threads()
    variables = [name for name in _VARIABLES if os.environ.get(name)]
    return f"{number}, by {variables[0]}" if variables else f"{number}; 1 for images of up to {_SMALL} numbers"


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory: page faults at every allocation can cost as much as the computation."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**30)


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Makes a CUDA device the current one: a user's model may say ``cuda`` without a number.

    Args:
        device: The device; a CPU changes nothing.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


@contextmanager
def worker_environment() -> Iterator[None]:
    """The environment in which worker processes are started.

    Their memory on a GPU grows in segments that can be extended, unless the user has set the allocator: several processes on
    one GPU lose less memory to gaps. The allocator reads the variable when CUDA starts.
    """
    if any(name in os.environ for name in _ALLOCATOR):
        yield
        return
    os.environ[_ALLOCATOR[0]] = "expandable_segments:True"
    try:
        yield
    finally:
        os.environ.pop(_ALLOCATOR[0], None)


def use_share(device: torch.device, processes: int) -> None:
    """Limits this process to its device, and to its share of the device's memory or of the CPU's threads.

    A process that needs more memory runs out of memory itself, and continues with smaller batches. Without a limit it would
    take the memory of the other processes.

    Args:
        device: The device of this process, which has not used CUDA yet.
        processes: The number of processes on this device.
    """
    if device.type == "cuda":
        # torch's functions need a number.
        device = torch.device("cuda", device.index or 0)
        # Before anything else: CUDA would take memory on the first device too.
        torch.cuda.set_device(device)
        if processes > 1:
            # A tenth of the memory is for the processes themselves, beside their tensors.
            torch.cuda.set_per_process_memory_fraction(0.9 / processes, device)
    elif not any(os.environ.get(name) for name in _VARIABLES):
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
