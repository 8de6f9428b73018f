"""Integers that replace a class where a model predicts none; importable without torch, to read stored predictions."""

from __future__ import annotations

__all__ = ["NO_NUMBER", "REJECTED"]

REJECTED = -1
"""The decision of a detector that rejects an image; see :func:`.decision.with_rejections`."""

NO_NUMBER = -2
"""The decision where a logit is NaN: the model has failed."""
