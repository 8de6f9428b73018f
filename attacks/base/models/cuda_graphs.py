"""Recording of CUDA graphs, by the rules of PyTorch's notes on CUDA semantics."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["forbidden_synchronizations", "garbage_collection_paused", "layout_of", "recording"]


@contextmanager
def recording(graph: torch.cuda.CUDAGraph, pool: Any = None) -> Iterator[None]:
    """Records the operations that are launched inside into a graph.

    ``torch.cuda.graph`` would free the cached memory and collect garbage as well, which takes longer than the recording.

    Args:
        graph: The graph.
        pool: The memory pool of a graph that shares its memory.
    """
    graph.capture_begin(pool, capture_error_mode="thread_local")
    try:
        yield
    finally:
        graph.capture_end()


@contextmanager
def forbidden_synchronizations() -> Iterator[None]:
    """Makes an operation that waits for the GPU raise: within a recording, it would break the recording."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pauses Python's cyclic garbage collector: it might free another graph, which breaks a recording."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def layout_of(rows: Tensor) -> torch.memory_format:
    """The memory layout of rows ``(M, ...)``: contiguous where they have both layouts, such as images of one channel."""
    channels_last = rows.dim() == 4 and rows.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last and not rows.is_contiguous() else torch.contiguous_format
