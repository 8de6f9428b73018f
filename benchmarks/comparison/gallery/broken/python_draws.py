"""Adds noise from Python's ``random.SystemRandom``, which no seed reaches."""

from __future__ import annotations

import random
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.comparison.gallery.base.broken_defense import BrokenDefense

__all__ = ["PythonDraws"]


class PythonDraws(BrokenDefense):
    """Adds noise from Python's ``random.SystemRandom``, which no seed reaches.

    It deceives attacks that control torch's generator alone: their draws are not those that are scored. The attack
    made for it takes the expectation over passes.
    """

    noticed_by: ClassVar[tuple[str, ...]] = ("not-repeatable", "unstable")

    def forward(self, images: Tensor) -> Tensor:
        noise = [random.SystemRandom().gauss(0, 0.15) for _ in range(images.numel())]
        return self.logits(images + torch.tensor(noise).view_as(images).to(images))
