"""The number of draws that score an image."""

from __future__ import annotations

__all__ = ["REPEATS", "resolve_repeats"]

REPEATS = 10
"""Draws that score each image of a randomized model by default."""


def resolve_repeats(repeats: int | None, *, randomized: bool) -> int:
    """The number of fresh draws that score an image.

    Args:
        repeats: What the user set; ``None`` for the default.
        randomized: Whether the model is randomized.

    Returns:
        ``repeats`` or its default for a randomized model, 1 for a deterministic one.
    """
    return (repeats or REPEATS) if randomized else 1
