"""Rounds the pixels, and declares a surrogate whose gradient has the opposite sign."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer
from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["WrongSurrogate"]


class WrongSurrogate(BrokenDefense):
    """Rounds the pixels, and declares a surrogate whose gradient has the opposite sign.

    It deceives attacks that use the surrogate (BPDA). The attack made for it uses the identity instead.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("wrong-gradient",)

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        self.rounding = _Rounding()

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.rounding(images))


class _Rounding(BPDALayer):
    """Rounding with a misleading surrogate."""

    def exact(self, images: Tensor) -> Tensor:
        return (images * 7).round() / 7

    def surrogate(self, images: Tensor) -> Tensor:
        return 1 - images
