"""Plain training of a network with average pooling."""

from __future__ import annotations

from robustbench_cli.benchmarks.comparison.gallery.base import networks
from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import HonestModel

__all__ = ["MODEL"]

MODEL = HonestModel(model=f"{networks.__name__}:AveragePooling")
