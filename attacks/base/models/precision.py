"""The floating-point precision of matrix products and convolutions on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["full_float32"]


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Computes float32 products in full float32 on a GPU, and restores the caller's precision afterwards.

    cuDNN convolves in TF32 by default, whose products have 10 bits of mantissa. An image's logits then depend on the
    rest of its batch by about 1e-3, which is enough to move an image across a decision boundary. Gradients do not need
    full precision, and large networks take several times as long with it.

    Args:
        device: The device of the model. Nothing happens on a CPU.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    backends = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
    precisions = [backend.fp32_precision for backend in backends]
    _allow_tf32(convolutions=False, products=False)
    try:
        yield
    finally:
        _allow_tf32(convolutions=precisions[0] == "tf32", products=precisions[2] == "tf32")
        # The caller may have set the backends one by one.
        for backend, precision in zip(backends, precisions, strict=True):
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision


def _allow_tf32(*, convolutions: bool, products: bool) -> None:
    # This is the older of torch's two interfaces. Code that reads the older one fails after a write to the newer one.
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products
