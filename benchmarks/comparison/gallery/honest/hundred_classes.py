"""Plain training on 100 classes."""

from __future__ import annotations

from robustbench_cli.benchmarks.comparison.gallery.base import digit_pairs
from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import HonestModel

__all__ = ["MODEL"]

MODEL = HonestModel(dataset=f"{digit_pairs.__name__}:DigitPairs", epochs=10)
