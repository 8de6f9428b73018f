"""Undoes what a user's own code changes in the process that runs it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["isolate_passes", "isolated"]


@contextmanager
def isolated() -> Iterator[None]:
    """Restores the process's settings after a user's code has run inside the context.

    These are torch's default type, gradient mode and number of threads, the filters of warnings, and the standard
    streams.
    """
    restore = _save_settings()
    try:
        yield
    finally:
        restore()


def isolate_passes(model: nn.Module) -> nn.Module:
    """Makes each forward pass of a model :func:`isolated`; returns the same model."""
    restores: list[Callable[[], None]] = []

    def before(*_: Any) -> None:
        restores.append(_save_settings())

    def after(*_: Any) -> None:
        restores.pop()()

    model.register_forward_pre_hook(before, prepend=True)
    model.register_forward_hook(after, always_call=True)
    return model


def _save_settings() -> Callable[[], None]:
    """Saves the settings of :func:`isolated`; returns a function that restores them."""
    # If torch is not imported yet, there is nothing to save. While it is being imported, it has no settings yet.
    torch: Any = sys.modules.get("torch")
    torch = torch if hasattr(torch, "get_num_threads") else None
    settings = torch and (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads())
    all_filters: Any = warnings.filters
    filters, streams = all_filters[:], _streams()

    def restore() -> None:
        if torch is not None and settings is not None:
            _restore_torch(torch, *settings)
        if all_filters != filters:
            all_filters[:] = filters
            # Entering this context invalidates Python's cache of filter decisions.
            with warnings.catch_warnings():
                pass
        for number, copy in streams.items():
            _reopen(number, copy)

    return restore


def _restore_torch(torch: Any, dtype: Any, gradients: bool, threads: int) -> None:
    if torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)
    if torch.is_grad_enabled() != gradients:
        torch.set_grad_enabled(gradients)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@cache
def _streams() -> dict[int, int]:
    """Copies of stdout and stderr, made before a user's code runs for the first time."""
    copies = {}
    for number in (1, 2):
        # A process may run without one of them.
        with suppress(OSError):
            copies[number] = os.dup(number)
    return copies


def _reopen(number: int, copy: int) -> None:
    """Reopens a standard stream if a user's code has closed it."""
    try:
        os.fstat(number)
    except OSError:
        os.dup2(copy, number)
    name = {1: "stdout", 2: "stderr"}[number]
    stream = getattr(sys, name)
    if stream is not None and stream.closed:
        setattr(sys, name, os.fdopen(os.dup(copy), "w", errors="backslashreplace"))
