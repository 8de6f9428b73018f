"""What stands in the place of a class where a model's answer is none; read without torch by whoever reads stored answers."""

from __future__ import annotations

__all__ = ["NO_NUMBER", "REJECTED"]

REJECTED = -1
"""The decision to take an image for none of the classes, which a detector makes; see :func:`.decision.with_rejections`."""

NO_NUMBER = -2
"""In the place of a decision where a logit is not a number: the model has failed."""
