"""Adversarial training with PGD in l2."""

from __future__ import annotations

from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import HonestModel

__all__ = ["MODEL"]

MODEL = HonestModel(defense="pgd-at", parameters={"norm": "l2", "eps": 0.5}, epochs=20)
