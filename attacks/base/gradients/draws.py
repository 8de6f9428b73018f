"""The draws behind a gradient: what may be asked for, and what it means for a model."""

from __future__ import annotations

from typing import Literal

from robustbench_cli.core.errors import UserError

__all__ = ["EOT_DRAWS", "Draws", "EOTChoice", "resolve_eot"]

Draws = int | Literal["exact", "frozen"]
"""A number of draws over which a randomized gradient is averaged; ``"exact"``, all that there are; or ``"frozen"``:
one draw for all images and steps.
"""

EOTChoice = Draws | Literal["auto"]
"""The same, or whichever is right for the model; see :func:`resolve_eot`."""

EOT_DRAWS = 10
"""Draws of a gradient where nothing else is asked for (Wang et al., appendix C.3: success saturates for more)."""


def resolve_eot(asked: EOTChoice, *, randomized: bool, cost_of_all_draws: float | None) -> Draws:
    """The draws behind a gradient of a model.

    Args:
        asked: What the user said. ``"auto"`` is the exact expectation where that costs no more than :data:`EOT_DRAWS`
            draws, else that many. A deterministic model is asked once whatever is said.
        randomized: Whether the model is.
        cost_of_all_draws: In forward passes of one draw; ``None`` where the draws cannot be counted.

    Raises:
        UserError: ``"exact"`` for a randomized model whose draws cannot be counted.
    """
    if not randomized:
        return 1
    if asked == "exact" and cost_of_all_draws is None:
        raise UserError(
            "eot is exact, and the draws of this model cannot be counted: give a number of draws, such as 10"
        )
    if asked != "auto":
        return asked
    return "exact" if cost_of_all_draws is not None and cost_of_all_draws <= EOT_DRAWS else EOT_DRAWS
