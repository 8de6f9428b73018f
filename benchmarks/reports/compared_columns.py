"""What ``advdef report --compare`` takes, for the command line, without pandas."""

from __future__ import annotations

import re

__all__ = ["COMPARED", "is_hash"]

COMPARED = ("defense", "model", "checkpoint", "attack", "eot", "seed")
"""The columns in which compared rows may differ."""


def is_hash(text: str) -> bool:
    """Whether a text is a cell's hash, or its first six digits or more.

    Args:
        text: Any text.
    """
    return re.fullmatch(r"[0-9a-f]{6,20}", text) is not None
