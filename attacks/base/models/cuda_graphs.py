"""Recording of CUDA graphs, by the rules of PyTorch's notes on CUDA semantics."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["forbidden_synchronizations", "graphed_rows", "layout_of", "padded", "recording", "stream_of_recordings"]


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
def stream_of_recordings() -> Iterator[None]:
    """Launches what is inside on a stream of its own: a recording cannot be on the default one.

    Libraries make their handles and workspaces per stream, so a first pass inside, before the recording, makes them.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with _garbage_collection_paused(), torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
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


def graphed_rows(count: int) -> int:
    """The rows of the graph for a number of rows: the next power of two, so that few graphs serve batches of all sizes."""
    return 1 << (count - 1).bit_length()


def padded(rows: Tensor, count: int) -> Tensor:
    """A copy of rows ``(M, ...)`` with the first ones repeated up to ``count`` rows, in the same memory layout."""
    repeated = rows[torch.arange(count, device=rows.device) % len(rows)]
    return repeated.contiguous(memory_format=layout_of(rows))
