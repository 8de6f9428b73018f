"""Adversarial training with PGD in l2."""

from __future__ import annotations

from robustbench_cli.benchmarks.comparison.gallery.base import l2_adversarial_training
from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import HonestModel

__all__ = ["MODEL"]

MODEL = HonestModel(defense=f"{l2_adversarial_training.__name__}:L2AdversarialTraining")
