"""Attacks beside certificates: the accuracy that is certified at a cell's radius, and what no certificate allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
from robustbench_cli.benchmarks.certification.certify import CertifiedModel
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.randomized_smoothing import RandomizedSmoothing

__all__ = ["ALPHA", "LEVEL", "certificate_of", "certified_accuracy", "contradiction"]

ALPHA = 0.001
"""The chance at most that a certificate by smoothing beside an attack is wrong."""

LEVEL = 0.001
"""The chance at most that attacks are said to contradict a certificate where they do not."""


def certificate_of(cell: Cell, models: Sequence[CertifiedModel]) -> CertifiedModel | None:
    """The certified model that a cell attacks; of several, the one of most images.

    Where the certificate is of a smoothed model, the cell's defense must be that smoothing, deciding by one draw or by
    the vote: the certificate tells nothing of another noise, or of the mean softmax. A defense of a user's own is
    passed by: a store may not say what code runs.
    """
    sigma = _sigma(cell)
    same = [
        model
        for model in models
        if (model.checkpoint, model.described["dataset"]) == (cell.checkpoint, cell.dataset)
        and (isinstance(model.procedure, Intervals) or model.procedure.sigma == sigma)
    ]
    return max(same, key=lambda model: len(model.labels), default=None)


def _sigma(cell: Cell) -> float | None:
    """The noise of the smoothing by whose draws a cell's model decides; ``None`` where it does not."""
    last = _smoothing(cell)
    return last.sigma if last is not None and last.decision in {"one-draw", "vote"} else None


def _smoothing(cell: Cell) -> RandomizedSmoothing | None:
    """The smoothing that is the last of a cell's defenses; ``None`` where it is another, or not one of this version."""
    if not cell.defenses:
        return None
    spec = cell.defenses[-1]
    try:
        kind = defenses.load(defenses.trusted(spec.name, file=f"cell {cell.id}"))
        smoothing = spec.build(defenses) if issubclass(kind, RandomizedSmoothing) else None
    except UserError:
        return None
    return smoothing if isinstance(smoothing, RandomizedSmoothing) else None


def certified_accuracy(cell: Cell, model: CertifiedModel) -> float:
    """The share of a model's certified images that are certified to be right at a cell's radius; NaN in other norms."""
    if cell.norm != model.procedure.norm or cell.eps is None:
        return float("nan")
    return float(model.certificates(alpha=ALPHA).certified(model.labels, cell.eps).mean())


def contradiction(cell: Cell, outcomes: Outcomes, model: CertifiedModel) -> str | None:
    """What an attack did inside of certified radii more often than can be, in words; ``None`` where it did not.

    It counts the images that every one of R answers of the deployed rule takes for another class than the certified
    one, although they are nearer to their clean image than its radius. Where a certificate by smoothing is right, a
    draw is of that class with a chance of one half or more. So the chance of R such answers is at most ``q^R``, where q
    is that of no majority among the rule's draws; and the certificate is wrong with the chance :data:`ALPHA`. The
    number of such images is held against the binomial one at :data:`LEVEL`. A certificate by intervals is a proof,
    which no image may contradict.

    Args:
        cell: See :func:`certificate_of`.
        outcomes: Of the cell.
        model: That it attacks.
    """
    common = min(len(outcomes.labels), len(model.labels))
    if (outcomes.labels[:common] != model.labels[:common]).any():
        return None
    each = model.certificates(alpha=ALPHA)
    predicted, radius = each.predicted[:common], each.radius[:common]
    distance = outcomes.linf if model.procedure.norm == "linf" else outcomes.l2
    inside = (predicted >= 0) & (distance[:, :common] < radius * (1 - 1e-6))
    fell = inside & (outcomes.perturbed[:, :, :common] != predicted).all(axis=1)
    number, tried = int(fell.any(axis=0).sum()), int(inside.any(axis=0).sum())
    if not number:
        return None
    told = f"cell {cell.id} ({cell.defense} {cell.attack_label}): {number} of {tried} images fell nearer than the radius that is certified for them in"
    fault = "the certificate or the attack's row is at fault"
    if isinstance(model.procedure, Intervals):
        return f"{told} linf by intervals, and none can: {fault}"
    # Of such an attack's images, those are kept that fell in the very draws that are counted.
    if cell.accounting == "single-draw":
        return None
    last = _smoothing(cell)
    draws = last.draws if last is not None and last.decision == "vote" else 1
    no_majority = float(stats.binom.cdf(draws // 2, draws, 0.5)) if draws > 1 else 0.5
    chance = min(1.0, ALPHA + len(inside) * no_majority ** outcomes.clean.shape[0])
    if np.greater_equal(stats.binom.sf(number - 1, tried, chance), LEVEL):
        return None
    return f"{told} l2 at sigma {model.procedure.sigma:g}, and no more than {chance * tried:.2g} can be expected to: {fault}"
