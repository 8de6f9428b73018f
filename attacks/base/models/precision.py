"""The floating-point precision in which a GPU multiplies matrices and convolves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["full_float32"]


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Within it, a GPU computes float32 products in float32; afterwards in what the caller had chosen.

    In TF32, cuDNN's default for convolutions, a product has 10 bits of mantissa, and an image's logits depend on the batch
    that it passes in by some 1e-3: enough to move an image over a decision boundary. Gradients do not need more, and large
    networks take several times as long without it.

    Args:
        device: Where the model is; nothing is to be done on a CPU.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    switches = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
    before = [switch.fp32_precision for switch in switches]
    _allow_tf32(convolutions=False, products=False)
    try:
        yield
    finally:
        _allow_tf32(convolutions=before[0] == "tf32", products=before[2] == "tf32")
        # A caller may have set them one by one.
        for switch, own in zip(switches, before, strict=True):
            if switch.fp32_precision != own:
                switch.fp32_precision = own


def _allow_tf32(*, convolutions: bool, products: bool) -> None:
    # The older of torch's two interfaces: what the newer one sets, code that reads the older cannot read.
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products
