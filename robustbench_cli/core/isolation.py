"""Code of a user's own changes nothing of the process that runs it: what it has changed is as it was before."""

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
    """Within it a user's code may run.

    Torch's default type, gradient mode and number of threads, the filters of warnings and the standard streams are
    afterwards what they were before.
    """
    restore = _kept()
    try:
        yield
    finally:
        restore()


def isolate_passes(model: nn.Module) -> nn.Module:
    """The same model, each pass of which is :func:`isolated`."""
    begun: list[Callable[[], None]] = []

    def before(*_: Any) -> None:
        begun.append(_kept())

    def after(*_: Any) -> None:
        begun.pop()()

    model.register_forward_pre_hook(before, prepend=True)
    model.register_forward_hook(after, always_call=True)
    return model


def _kept() -> Callable[[], None]:
    """What is to be kept, as a function that restores it."""
    # Where torch is not there yet, its settings are what they are when it is imported.
    torch: Any = sys.modules.get("torch")
    # In the midst of its import it has no settings yet.
    torch = torch if hasattr(torch, "get_num_threads") else None
    settings = torch and (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads())
    all_filters: Any = warnings.filters
    filters, streams = all_filters[:], _streams()

    def restore() -> None:
        if torch is not None and settings is not None:
            dtype, gradients, threads = settings
            if torch.get_default_dtype() != dtype:
                torch.set_default_dtype(dtype)
            if torch.is_grad_enabled() != gradients:
                torch.set_grad_enabled(gradients)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
        if all_filters != filters:
            all_filters[:] = filters
            # Python forgets what it has made of the others.
            with warnings.catch_warnings():
                pass
        for number, copy in streams.items():
            _reopen(number, copy)

    return restore


@cache
def _streams() -> dict[int, int]:
    """Copies of stdout and stderr, as they are where a user's code runs for the first time."""
    found = {}
    for number in (1, 2):
        with suppress(OSError):
            found[number] = os.dup(number)
    return found


def _reopen(number: int, copy: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        os.dup2(copy, number)
    name = {1: "stdout", 2: "stderr"}[number]
    stream = getattr(sys, name)
    if stream is not None and stream.closed:
        setattr(sys, name, os.fdopen(os.dup(copy), "w", errors="backslashreplace"))
