"""Hierarchical random switching, attacked with the exact expectation."""

from __future__ import annotations

from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import HonestModel

__all__ = ["MODEL"]

MODEL = HonestModel(defense="hrs", parameters={"channels": [3, 3]})
