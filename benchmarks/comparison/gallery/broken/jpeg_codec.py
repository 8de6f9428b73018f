"""Passes the image through a JPEG file of quality 75."""

from __future__ import annotations

import io
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["JpegCodec"]


class JpegCodec(BrokenDefense):
    """Passes the image through a JPEG file of quality 75.

    It deceives attacks by gradients: a codec has none. The attack made for it follows the network without the codec
    (BPDA).
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("zero-gradient", "wrong-gradient")

    def forward(self, images: Tensor) -> Tensor:
        decoded = []
        for image in images.detach().cpu():
            buffer = io.BytesIO()
            Image.fromarray((image[0] * 255).round().byte().numpy()).save(buffer, "JPEG", quality=75)
            decoded.append(torch.from_numpy(np.array(Image.open(buffer)))[None].float() / 255)
        return self.logits(torch.stack(decoded).to(images)) + 0 * images.sum((1, 2, 3))[:, None]
