"""Gaussian noise in training and at test time, attacked with the expectation over draws."""

from __future__ import annotations

from robustbench_cli.benchmarks.comparison.gallery.base.honest_model import HonestModel

__all__ = ["MODEL"]

MODEL = HonestModel(defense="gaussian-noise")
