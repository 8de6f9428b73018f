"""The flags of the worst-case row over several attacks.

The worst case over the attacks of one model and threat model is the row that gates judge. It is only as strong as its
strongest attack, so the flag of an attack with masked gradients is also a flag of the worst case.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustbench_cli.benchmarks.evaluation.checks.base.row_group import NEAR_ZERO
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.statistics.intervals import mean_interval
from robustbench_cli.benchmarks.store.records import Result

__all__ = [
    "BLINDED",
    "ON_OTHER_MODELS",
    "QUICK_LOOK",
    "SET_UP",
    "blinded",
    "is_quick_look",
    "only_follows_gradients",
    "worst_case_flags",
]

BLINDED = frozenset({"zero-gradient", "wrong-gradient", "no-gradients"})
"""Flags of an attack whose gradients the model masked or does not give: the attack was blinded."""

SET_UP = frozenset({"no-eot", "every-draw", "few-classes", "left-the-ball", "cannot-reach", "silent-success"})
"""Flags of an attack whose own set-up was too weak."""

_BROKEN_THROUGH = 0.25
"""An attack breaks through if it breaks more than this share of the images that the blinded attacks left."""

_NEARER = 0.75
"""Without a radius, an attack counts as stronger on an image if its perturbation is at most this fraction of the others'
length.
"""

ON_OTHER_MODELS = frozenset({"non-adaptive", "transfer"})
"""Attacks that follow the gradients of another model than the attacked one."""

_WITHOUT_GRADIENTS_TOO = ("torchattacks:AutoAttack", "art:AutoAttack")
"""Attacks of other libraries that follow gradients and also search without them, except in the version ``rand``."""

QUICK_LOOK = (
    "quick look: the only attacks here follow gradients, so the robust accuracy may be overstated where these mislead: run "
    "--suite standard (for a randomized defense --suite randomized)"
)
"""The note on rows for which :func:`is_quick_look` is true."""


def worst_case_flags(results: Sequence[Result], attacks: Outcomes, worst: Outcomes) -> list[str]:
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

      1. The robust accuracy is near zero (:data:`~.row_group.NEAR_ZERO`), whichever attack broke the images. It can then be
         overstated by no more than its own value.
      2. An attack that followed the gradients of the model, was not blinded itself and ran on the images that the blinded
         attacks had left, broke more than a quarter of them, by the lower end of the 95 % confidence interval of the
         paired difference over the images. This is the case if one loss saturates and another does not. The first attack
         of a cascade whose unbroken images go to a blinded attack is no such attack: nothing shows how much it missed.

    Args:
        results: The results of the attacks of one model and threat model.
        attacks: Their outcomes, stacked; in a cascade, the images that earlier attacks broke included.
        worst: The outcomes of their worst case.
    """
    raised = {flag for result in results for flag in result.flags}
    flags = raised - BLINDED - SET_UP
    if not raised or _is_near_zero(results, worst):
        return sorted(flags)
    if not any(_follows_the_model(result) and SET_UP.isdisjoint(result.flags) for result in results):
        flags |= raised & SET_UP
    return sorted(flags | {flag for flag in raised & BLINDED if not _broken_through(results, attacks, flag)})


def blinded(results: Sequence[Result], attacks: Outcomes, worst: Outcomes) -> bool:
    """Whether attacks were blinded and no other attack broke through; see :func:`worst_case_flags`.

    Args:
        results: The results of the attacks of one model and threat model.
        attacks: Their outcomes, stacked; in a cascade, the images that earlier attacks broke included.
        worst: The outcomes of their worst case.
    """
    return not BLINDED.isdisjoint(worst_case_flags(results, attacks, worst))


def is_quick_look(results: Sequence[Result], *, clean: float, robust: float) -> bool:
    """Whether the attacks are too similar to support the robust accuracy that they leave.

    They are if all of them only follow gradients: a misleading gradient that no check finds misleads all of them. A
    robust accuracy near zero (:data:`~.row_group.NEAR_ZERO`) needs no support.

    Args:
        results: The results of the attacks of one model and threat model.
        clean: The clean accuracy.
        robust: The robust accuracy of their worst case.
    """
    needs_support = robust > NEAR_ZERO * clean and results[0].cell.eps != 0
    return needs_support and all(only_follows_gradients(result) for result in results)


def only_follows_gradients(result: Result) -> bool:
    """Whether an attack does nothing but follow gradients.

    Args:
        result: The result of the attack.
    """
    attack = result.cell.attack
    searches_too = attack.name in _WITHOUT_GRADIENTS_TOO and attack.parameters.get("version") != "rand"
    return result.backwards > 0 and not searches_too


def _follows_the_model(result: Result) -> bool:
    """Whether an attack followed the gradients of the attacked model itself."""
    attack = result.cell.attack
    return result.backwards > 0 and attack.name not in ON_OTHER_MODELS and not attack.surrogates


def _is_near_zero(results: Sequence[Result], worst: Outcomes) -> bool:
    """Whether the robust accuracy is near zero; never without a radius, where the distances are the result."""
    return results[0].cell.eps is not None and bool(worst.right_shares.mean() <= NEAR_ZERO * worst.clean_right.mean())


def _broken_through(results: Sequence[Result], attacks: Outcomes, flag: str) -> bool:
    """Whether an attack without masked gradients clearly broke the images that the attacks with this flag left."""
    previous = {result.cell.id: result.cell.after for result in results}
    for number, result in enumerate(results):
        if _follows_the_model(result) and BLINDED.isdisjoint(result.flags):
            # Attacks that continue from this one ran on its unbroken images, so they are no comparison.
            others = [
                index
                for index, other in enumerate(results)
                if flag in other.flags and not _continues(other.cell.id, result.cell.id, previous)
            ]
            if others and _clearly_breaks(attacks, number, others, any_distance=result.cell.eps is None):
                return True
    return False


def _continues(cell: str, other: str, previous: dict[str, str | None]) -> bool:
    """Whether a cell of a cascade comes after another one."""
    earlier = previous[cell]
    while earlier is not None and earlier != other:
        earlier = previous.get(earlier)
    return earlier == other


def _clearly_breaks(attacks: Outcomes, number: int, others: Sequence[int], *, any_distance: bool) -> bool:
    """Whether an attack clearly broke the images that the others left; with or without a radius."""
    if any_distance:
        left = attacks.clean_right[number].mean(axis=0, dtype=np.float64)
        distances = attacks.nearest_success()
        nearest, own = distances[others].min(axis=0), distances[number]
        remaining = np.where(np.isfinite(own) & (own <= _NEARER * nearest), 0.0, left)
    else:
        right = attacks.right_shares
        left, remaining = right[others].min(axis=0), right[number]
    # The interval is for shares in [0, 1]; a difference of two shares is in [-1, 1].
    shares, least = (left - remaining + 1) / 2, _BROKEN_THROUGH * left.mean()
    # The interval contains the mean and takes most of the time, so it is computed only where the mean exceeds the limit.
    return bool(2 * shares.mean() - 1 > least and 2 * mean_interval(shares)[0] - 1 > least)
