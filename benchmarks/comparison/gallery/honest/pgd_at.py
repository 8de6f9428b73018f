"""Adversarial training with PGD in linf."""

from __future__ import annotations

from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import HonestModel

__all__ = ["MODEL"]

MODEL = HonestModel(defense="pgd-at", epochs=20)
