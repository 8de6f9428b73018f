"""The flags of the worst-case row over several attacks.

The worst case over the attacks of one model and threat model is the row that gates judge. It is only as strong as its
strongest attack, so the flag of an attack with masked gradients is also a flag of the worst case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.statistics import Floats, mean_interval
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Result

__all__ = ["BLINDED", "NEAR_ZERO", "QUICK_LOOK", "SET_UP", "Run", "blinded", "is_quick_look", "worst_case_flags"]

BLINDED = frozenset({"zero-gradient", "wrong-gradient"})
"""Flags of an attack whose gradients the model masked: the attack was blinded."""

SET_UP = frozenset({"no-eot", "every-draw", "few-classes", "left-the-ball"})
"""Flags of an attack whose own set-up was too weak."""

NEAR_ZERO = 0.1
"""A robust accuracy of at most this share of the clean accuracy is near zero: it can be overstated by little."""

_BROKEN_THROUGH = 0.25
"""An attack breaks through if it breaks more than this share of the images that the blinded attacks left."""

_NEARER = 0.75
"""Without a radius, an attack counts as stronger on an image if its perturbation is at most this fraction of the others'
length.
"""

_ON_OTHER_MODELS = frozenset({"non-adaptive", "transfer"})
"""Attacks that follow the gradients of another model than the attacked one."""

QUICK_LOOK = (
    "quick look: the only attacks here follow the model's own gradients, so the robust accuracy may be overstated where "
    "these mislead: run --suite standard (for a randomized defense --suite randomized)"
)
"""The note on rows for which :func:`is_quick_look` is true."""


@dataclass(frozen=True)
class Run:
    """The result of one attack.

    Attributes:
        result: The result of its cell.
        outcomes: The outcomes of all images; in a cascade, those that earlier attacks broke included.
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
        follows_other = self.cell.attack.name in _ON_OTHER_MODELS or bool(self.cell.attack.surrogates)
        return self.result.backwards > 0 and not follows_other


def worst_case_flags(runs: Sequence[Run], worst: Outcomes) -> list[str]:
    """The flags of the worst case over several attacks, in alphabetical order.

    There are three kinds of flags:

    - Flags of the model or its figures (``unstable``, ``not-repeatable`` and all flags that are not of the other kinds):
      the worst case has them, whichever attack raised them.
    - Flags of an attack's set-up (:data:`SET_UP`): the worst case has them, unless another attack followed the model's
      gradients without such a flag.
    - Flags of a blinded attack (:data:`BLINDED`): the worst case has them, unless another attack clearly broke through.
      A few more broken images are not enough. A model with one-hot outputs keeps 86 % under blinded attacks, 63 % under
      Square and 5 % under an attack made for it; a model with thermometer encoding keeps 84, 25 and 5 %. So a search
      without gradients that breaks most images is no proof for the other attacks. Two things are:

      1. The robust accuracy is near zero (:data:`NEAR_ZERO`), whichever attack broke the images. It can then be
         overstated by no more than its own value.
      2. An attack that followed the gradients of the model, was not blinded itself and ran on the images that the blinded
         attacks had left, broke more than a quarter of them, by the lower end of the 95 % confidence interval of the
         paired difference over the images. This is the case if one loss saturates and another does not. The first attack
         of a cascade whose unbroken images go to a blinded attack is no such attack: nothing shows how much it missed.

    Args:
        runs: The attacks of one model and threat model.
        worst: The outcomes of their worst case.
    """
    raised = {flag for run in runs for flag in run.flags}
    flags = raised - BLINDED - SET_UP
    if _is_near_zero(runs, worst):
        return sorted(flags)
    if not any(run.follows_the_model and not SET_UP & set(run.flags) for run in runs):
        flags |= raised & SET_UP
    return sorted(flags | {flag for flag in raised & BLINDED if not _broken_through(runs, flag)})


def blinded(runs: Sequence[Run], worst: Outcomes) -> bool:
    """Whether attacks were blinded and no other attack broke through; see :func:`worst_case_flags`.

    Args:
        runs: The attacks of one model and threat model.
        worst: The outcomes of their worst case.
    """
    return not BLINDED.isdisjoint(worst_case_flags(runs, worst))


def is_quick_look(results: Sequence[Result], *, clean: float, robust: float) -> bool:
    """Whether the attacks are too similar to support the robust accuracy that they leave.

    They are if all of them follow gradients: a misleading gradient that no check finds misleads all of them. A robust
    accuracy near zero (:data:`NEAR_ZERO`) needs no support.

    Args:
        results: The results of the attacks of one model and threat model.
        clean: The clean accuracy.
        robust: The robust accuracy of their worst case.
    """
    needs_support = robust > NEAR_ZERO * clean and results[0].cell.eps != 0
    return needs_support and all(result.backwards > 0 for result in results)


def _is_near_zero(runs: Sequence[Run], worst: Outcomes) -> bool:
    """Whether the robust accuracy is near zero; never without a radius, where the distances are the result."""
    return runs[0].cell.eps is not None and bool(_right(worst).mean() <= NEAR_ZERO * worst.clean_right.mean())


def _broken_through(runs: Sequence[Run], flag: str) -> bool:
    """Whether an attack without masked gradients clearly broke the images that the attacks with this flag left."""
    previous = {run.cell.id: run.cell.after for run in runs}
    flagged = [run for run in runs if flag in run.flags]
    for run in runs:
        if run.follows_the_model and BLINDED.isdisjoint(run.flags):
            # Attacks that continue from this one ran on its unbroken images, so they are no comparison.
            others = [other.outcomes for other in flagged if not _continues(other.cell.id, run.cell.id, previous)]
            if others and _clearly_breaks(run, others):
                return True
    return False


def _continues(cell: str, other: str, previous: dict[str, str | None]) -> bool:
    """Whether a cell of a cascade comes after another one."""
    earlier = previous[cell]
    while earlier is not None and earlier != other:
        earlier = previous.get(earlier)
    return earlier == other


def _clearly_breaks(run: Run, blinded_attacks: Sequence[Outcomes]) -> bool:
    if run.cell.eps is None:
        left = run.outcomes.clean_right.mean(axis=0, dtype=np.float64)
        nearest = np.min([outcomes.nearest_success() for outcomes in blinded_attacks], axis=0)
        distances = run.outcomes.nearest_success()
        remaining = np.where(np.isfinite(distances) & (distances <= _NEARER * nearest), 0.0, left)
    else:
        left = np.min([_right(outcomes) for outcomes in blinded_attacks], axis=0)
        remaining = _right(run.outcomes)
    # The interval is for shares in [0, 1]; a difference of two shares is in [-1, 1].
    low, _ = mean_interval((left - remaining + 1) / 2)
    return bool(2 * low - 1 > _BROKEN_THROUGH * left.mean())


def _right(outcomes: Outcomes) -> Floats:
    """``(N,)``, the share of draws in which an image's worst candidate is classified correctly."""
    return np.asarray((outcomes.worst() == outcomes.labels).mean(axis=0, dtype=np.float64))
