"""The floating-point precision of gradients, and of matrix products and convolutions on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

__all__ = ["Precision", "full_float32", "gradient_precision"]

Precision = Literal["tf32", "float32", "bf16"]
"""The precision of gradients, and of the logits that come with them. Images are always scored in full float32.

On a GPU, ``"tf32"`` multiplies numbers with 10 bits of mantissa in convolutions and matrix products, ``"float32"`` with all
23 bits. ``"bf16"`` computes in bfloat16 what :class:`torch.autocast` computes in it, and the rest as ``"tf32"``. On a CPU,
``"tf32"`` is ``"float32"``.
"""


def full_float32(device: torch.device) -> AbstractContextManager[None]:
    """Computes float32 products in full float32 on a GPU, and restores the caller's precision afterwards.

    In TF32, an image's logits depend on the rest of its batch by about 1e-3, which is enough to move an image across a
    decision boundary. Gradients do not need full precision, and large networks take several times as long with it.

    Args:
        device: The device of the model. Nothing happens on a CPU.
    """
    return _products("ieee", device)


def gradient_precision(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Computes float32 products of a gradient on a GPU in its precision, and restores the caller's afterwards.

    Args:
        precision: In bf16 a model has float32 products too: those that autocast leaves alone.
        device: The device of the model. Nothing happens on a CPU.
    """
    return _products("ieee" if precision == "float32" else "tf32", device)


@contextmanager
def _products(wanted: Literal["ieee", "tf32"], device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    previous = [backend.fp32_precision for backend in _backends()]
    # Every step of an attack comes here, and each access takes microseconds.
    if previous == [wanted] * len(previous):
        yield
        return
    _set([wanted] * len(previous))
    try:
        yield
    finally:
        _set(previous)


@cache
def _backends() -> tuple[Any, ...]:
    """Convolutions, recurrent layers and matrix products."""
    import torch

    cudnn: Any = torch.backends.cudnn
    return cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul


def _set(precisions: list[str]) -> None:
    """Sets the precision of each of the backends."""
    import torch

    # Code that reads the older of torch's two interfaces fails after a write to the newer one alone. A write to the older
    # one alone changes nothing where the user has set torch.backends.fp32_precision.
    torch.backends.cudnn.allow_tf32 = precisions[0] == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precisions[2] == "tf32"
    for backend, precision in zip(_backends(), precisions, strict=True):
        backend.fp32_precision = precision
