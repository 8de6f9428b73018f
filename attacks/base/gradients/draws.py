"""Resolves the number of draws per gradient (``--eot``) for a model."""

from __future__ import annotations

from typing import Literal

from robustbench_cli.core.errors import UserError

__all__ = ["EOT_DRAWS", "Draws", "EOTChoice", "resolve_eot"]

Draws = int | Literal["exact", "frozen"]
"""The draws per gradient: the mean over this number of draws, all draws (``"exact"``), or one draw for all images and
steps (``"frozen"``).
"""

EOTChoice = Draws | Literal["auto"]
"""A value of ``--eot``: :data:`Draws`, or ``"auto"``; see :func:`resolve_eot`."""

EOT_DRAWS = 10
"""The default number of draws per gradient (Wang et al., appendix C.3: more draws hardly raise the success rate)."""


def resolve_eot(choice: EOTChoice, *, randomized: bool, cost_of_all_draws: float | None) -> Draws:
    """The draws per gradient of a model.

    Args:
        choice: The user's choice. ``"auto"`` is the exact expectation if it costs at most :data:`EOT_DRAWS` draws, and
            :data:`EOT_DRAWS` draws otherwise.
        randomized: Whether the model is randomized. A deterministic model needs one draw for any choice.
        cost_of_all_draws: In forward passes of one draw; ``None`` if the model cannot enumerate its draws.

    Raises:
        UserError: The choice is ``"exact"``, and the randomized model cannot enumerate its draws.

    >>> resolve_eot("auto", randomized=True, cost_of_all_draws=None)
    10
    >>> resolve_eot("auto", randomized=True, cost_of_all_draws=4.0)
    'exact'
    """
    if not randomized:
        return 1
    if choice == "exact" and cost_of_all_draws is None:
        raise UserError(
            "eot is exact, and the draws of this model cannot be counted: give a number of draws, such as 10"
        )
    if choice != "auto":
        return choice
    return "exact" if cost_of_all_draws is not None and cost_of_all_draws <= EOT_DRAWS else EOT_DRAWS
