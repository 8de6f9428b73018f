"""Random operations on images."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms import functional

from robustbench_cli.defenses.base.training.augmentations.base.augmentation import Augmentation

__all__ = ["RandAugment"]

_LARGEST = 30
"""The largest magnitude of the paper."""


class RandAugment(Augmentation):
    """RandAugment, light: random operations of one magnitude, such as a rotation, a shear, a contrast or a brightness.

    The operations and their magnitudes are those of torchvision, on images of 8 bits, without the equalization of histograms,
    which no device does for a batch. Each image has operations of its own. The default is weaker than in the paper, because a
    strong augmentation slows adversarial training down.
    """

    paper: ClassVar[str] = (
        "E. D. Cubuk, B. Zoph, J. Shlens, Q. V. Le, RandAugment: Practical Automated Data Augmentation with a Reduced Search "
        "Space, NeurIPS 2020, arXiv 1909.13719"
    )

    operations: int = Field(1, ge=1, le=14, description="number of operations, N in the paper")
    magnitude: float = Field(5, ge=0, le=_LARGEST, description="magnitude of the operations, M of 30 in the paper")

    def run(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.mul(255).round().to(torch.uint8)
        for _ in range(self.operations):
            # Drawn on the CPU, so the group sizes are known without waiting for the GPU.
            drawn = torch.randint(2 * len(OPERATIONS), (len(images),))
            changed = pixels.clone()
            for number in drawn.unique().tolist():
                rows = (drawn == number).nonzero()[:, 0].to(images.device, non_blocking=True)
                operation, sign = list(OPERATIONS.values())[number // 2], 1 - 2 * (number % 2)
                changed[rows] = operation(pixels[rows], self.magnitude / _LARGEST, sign)
            pixels = changed
        return pixels.to(images.dtype) / 255, labels


def _affine(pixels: Tensor, *, translate: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)) -> Tensor:
    whole = [int(part) for part in translate]
    # torchvision's RandAugment shears about the corner.
    center = [0, 0] if any(shear) else None
    moved: Tensor = functional.affine(pixels, 0, whole, 1.0, list(shear), center=center)
    return moved


def _degrees(slope: float) -> float:
    return torch.tensor(slope).atan().rad2deg().item()


OPERATIONS: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "identity": lambda pixels, _, __: pixels,
    "brightness": lambda pixels, size, sign: functional.adjust_brightness(pixels, 1 + sign * 0.9 * size),
    "color": lambda pixels, size, sign: functional.adjust_saturation(pixels, 1 + sign * 0.9 * size),
    "contrast": lambda pixels, size, sign: functional.adjust_contrast(pixels, 1 + sign * 0.9 * size),
    "sharpness": lambda pixels, size, sign: functional.adjust_sharpness(pixels, 1 + sign * 0.9 * size),
    "posterize": lambda pixels, size, _: functional.posterize(pixels, 8 - round(4 * size)),
    "solarize": lambda pixels, size, _: functional.solarize(pixels, 255 * (1 - size)),
    "autocontrast": lambda pixels, _, __: functional.autocontrast(pixels),
    "rotate": lambda pixels, size, sign: functional.rotate(pixels, sign * 30 * size),
    "shear-x": lambda pixels, size, sign: _affine(pixels, shear=(_degrees(sign * 0.3 * size), 0)),
    "shear-y": lambda pixels, size, sign: _affine(pixels, shear=(0, _degrees(sign * 0.3 * size))),
    "translate-x": lambda pixels, size, sign: _affine(pixels, translate=(sign * 150 / 331 * size * pixels.shape[3], 0)),
    "translate-y": lambda pixels, size, sign: _affine(pixels, translate=(0, sign * 150 / 331 * size * pixels.shape[2])),
}
"""The operations by name. Each takes images ``(N, C, H, W)`` in uint8, a magnitude in [0, 1] and a sign."""
