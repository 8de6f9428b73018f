"""The options of an evaluation."""

from __future__ import annotations

from typing import Literal

__all__ = ["Accounting", "Targeted", "resolve_repeats"]


Targeted = Literal["no", "next", "random", "least-likely", "all"]


Accounting = Literal["expected", "single-draw"]
"""What counts of a randomized model: its expected accuracy over fresh draws, or one draw on the clean image and one
after each attack, any of which makes the image fall. The latter is how AutoAttack counts: it takes an unlucky draw for
an attack's success, and is there to compare with figures that were counted so.
"""


def resolve_repeats(asked: int | None, *, randomized: bool) -> int:
    """The fresh draws that score an image: 1 for a deterministic model; for a randomized one 10, if not told else."""
    return (asked or 10) if randomized else 1
