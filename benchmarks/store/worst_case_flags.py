"""What the headline row of several attacks must say: the flags of blinded attacks, and that a look was only quick.

The headline is the worst case over the attacks of one model and threat, the row that gates look at. It is no better than
the attacks that saw the way, so a flag of an attack that did not see it is a flag of the headline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.statistics import Floats, mean_interval
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.store import Result

__all__ = ["BLINDED", "NEAR_ZERO", "QUICK_LOOK", "SET_UP", "Run", "blinded", "is_quick_look", "worst_case_flags"]

BLINDED = frozenset({"zero-gradient", "wrong-gradient"})
"""Flags of an attack that the model kept from seeing the way."""

SET_UP = frozenset({"no-eot", "every-draw", "few-classes", "left-the-ball"})
"""Flags of an attack that was set up with less than it needs, whatever the model."""

NEAR_ZERO = 0.1
"""A robust accuracy of at most this part of the clean accuracy is near zero: little can be overstated."""

_BROKEN_THROUGH = 0.25
"""An attack breaks through where it breaks more than this part of what the blinded attacks left."""

_NEARER = 0.75
"""Where any distance counts, an image counts as broken further where its perturbation is at most this part as long."""

_FOLLOWING_ANOTHER_MODEL = frozenset({"non-adaptive", "transfer"})
"""Attacks that follow the gradients of a model that is not the one that is attacked."""

QUICK_LOOK = (
    "quick look: the only attacks here follow the model's own gradients, so the robust accuracy may be overstated where "
    "these mislead: run --suite standard (for a randomized defense --suite randomized)"
)
"""What is said of rows of which :func:`is_quick_look` holds."""


@dataclass(frozen=True)
class Run:
    """What one attack did.

    Attributes:
        result: Of its cell.
        outcomes: Of every image; in a cascade, with those that earlier attacks broke.
    """

    result: Result
    outcomes: Outcomes

    @property
    def cell(self) -> Cell:
        """The cell."""
        return self.result.cell

    @property
    def flags(self) -> frozenset[str]:
        """The flags of its row."""
        return frozenset(self.result.flags)

    @property
    def follows_the_model(self) -> bool:
        """Whether it followed the gradients of the attacked model itself."""
        other = self.cell.attack.name in _FOLLOWING_ANOTHER_MODEL or bool(self.cell.attack.surrogates)
        return self.result.backwards > 0 and not other


def worst_case_flags(runs: Sequence[Run], worst: Outcomes) -> list[str]:
    """The flags of the worst case over several attacks, in alphabetical order.

    There are three kinds of flags:

    - What speaks against the model or its figures (``unstable``, ``not-repeatable`` and every flag that is in neither of
      the other kinds) speaks against the headline, whichever attack showed it.
    - What speaks against the set-up of an attack (:data:`SET_UP`) stays, unless another attack followed the model's
      gradients and has no such flag: that one did what the first should have done.
    - What says that an attack was blinded (:data:`BLINDED`) stays, unless another attack clearly broke through. That
      needs more than to find something. A model with one-hot outputs leaves 86 % to blinded attacks, 63 % to Square and
      5 % to an attack made for it; one that encodes pixels as thermometers leaves 84, 25 and 5 %. So a search without
      gradients that breaks most images does not vouch for the others. Two things do:

      1. Next to nothing is left (:data:`NEAR_ZERO`), whoever broke it. The headline can then be overstated by no more than
         what it says.
      2. An attack that followed the gradients of the model, was not blinded itself and attacked what the blinded ones had
         left, broke more than a quarter of that, by the lower end of the 95 % confidence interval of the paired difference
         over the images. This is the case where one loss saturates and another does not. An attack that goes first in a
         cascade, and leaves its images to one that is then blinded, is no such attack: of what it left nobody saw more.

    Args:
        runs: The attacks of one model and threat.
        worst: Their worst case.
    """
    raised = {flag for run in runs for flag in run.flags}
    kept = raised - BLINDED - SET_UP
    if _is_near_zero(runs, worst):
        return sorted(kept)
    if not any(run.follows_the_model and not SET_UP & set(run.flags) for run in runs):
        kept |= raised & SET_UP
    return sorted(kept | {flag for flag in raised & BLINDED if not _broken_through(runs, flag)})


def blinded(runs: Sequence[Run], worst: Outcomes) -> bool:
    """Whether attacks were blinded and none of the others broke through; see :func:`worst_case_flags`."""
    return not BLINDED.isdisjoint(worst_case_flags(runs, worst))


def is_quick_look(results: Sequence[Result], *, clean: float, robust: float) -> bool:
    """Whether attacks have too much in common to vouch for what they leave.

    They do where all of them follow gradients: a gradient that misleads one, without being zero or a wrong slope where
    the checks look, misleads the others. Where they leave next to nothing (:data:`NEAR_ZERO`) there is nothing to vouch
    for.

    Args:
        results: Of the attacks of one model and threat.
        clean: The clean accuracy.
        robust: The robust accuracy of their worst case.
    """
    left = robust > NEAR_ZERO * clean and results[0].cell.eps != 0
    return left and all(result.backwards > 0 for result in results)


def _is_near_zero(runs: Sequence[Run], worst: Outcomes) -> bool:
    """Whether next to nothing is left; never where any distance counts, since there the distances are the result."""
    return runs[0].cell.eps is not None and bool(_right(worst).mean() <= NEAR_ZERO * worst.clean_right.mean())


def _broken_through(runs: Sequence[Run], flag: str) -> bool:
    """Whether an attack that saw the way clearly broke what the attacks with this flag left."""
    behind = {run.cell.id: run.cell.after for run in runs}
    flagged = [run for run in runs if flag in run.flags]
    for run in runs:
        if run.follows_the_model and BLINDED.isdisjoint(run.flags):
            # Those that went on from this one attacked what it had left: they tell nothing of what it can do.
            others = [each.outcomes for each in flagged if not _goes_on_from(each.cell.id, run.cell.id, behind)]
            if others and _clearly_breaks(run, others):
                return True
    return False


def _goes_on_from(cell: str, other: str, behind: dict[str, str | None]) -> bool:
    """Whether a cell of a cascade goes on from another one."""
    place = behind[cell]
    while place is not None and place != other:
        place = behind.get(place)
    return place == other


def _clearly_breaks(run: Run, blinded_attacks: Sequence[Outcomes]) -> bool:
    if run.cell.eps is None:
        left = run.outcomes.clean_right.mean(axis=0, dtype=np.float64)
        nearest = np.min([each.nearest_success() for each in blinded_attacks], axis=0)
        own = run.outcomes.nearest_success()
        remaining = np.where(np.isfinite(own) & (own <= _NEARER * nearest), 0.0, left)
    else:
        left = np.min([_right(each) for each in blinded_attacks], axis=0)
        remaining = _right(run.outcomes)
    # The interval is for shares in [0, 1], and a difference of two shares lies in [-1, 1].
    low, _ = mean_interval((left - remaining + 1) / 2)
    return bool(2 * low - 1 > _BROKEN_THROUGH * left.mean())


def _right(outcomes: Outcomes) -> Floats:
    """``(N,)`` shares of draws in which an image's worst candidate is classified right."""
    return np.asarray((outcomes.worst() == outcomes.labels).mean(axis=0, dtype=np.float64))
