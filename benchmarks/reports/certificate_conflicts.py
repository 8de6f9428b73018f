"""Compares attacks with certificates: the certified accuracy at a cell's radius, and contradictions between the two."""

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
"""The largest probability that a certificate by smoothing is wrong, in a comparison with attacks."""

LEVEL = 0.001
"""The significance level of a contradiction between attacks and a certificate by smoothing."""


def certificate_of(cell: Cell, models: Sequence[CertifiedModel]) -> CertifiedModel | None:
    """The certificate of the model that a cell attacks; of several, the one with the most images.

    A certificate by smoothing holds only for a cell whose defense is the same smoothing and whose decision rule is one
    draw or the vote. A corrupted image is another image than the certified one. A user's own defense is skipped, since a
    store must not select the code that runs.

    Args:
        cell: The cell.
        models: The certificates.
    """
    if cell.corruption is not None:
        return None
    sigma = _sigma(cell)
    same = [
        model
        for model in models
        if (model.checkpoint, model.described["dataset"]) == (cell.checkpoint, cell.dataset)
        and (isinstance(model.procedure, Intervals) or model.procedure.sigma == sigma)
    ]
    return max(same, key=lambda model: len(model.labels), default=None)


def _sigma(cell: Cell) -> float | None:
    """The noise level of the smoothing that decides in a cell; ``None`` without one."""
    last = _smoothing(cell)
    return last.sigma if last is not None and last.decision in {"one-draw", "vote"} else None


def _smoothing(cell: Cell) -> RandomizedSmoothing | None:
    """The smoothing that is the last of a cell's defenses; ``None`` for another defense, or one of another version."""
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
    """The certified accuracy at a cell's radius; NaN where the certificate is in another norm.

    Args:
        cell: The cell.
        model: The certificate; see :func:`certificate_of`.
    """
    if cell.norm != model.procedure.norm or cell.eps is None:
        return float("nan")
    return float(model.certificates(alpha=ALPHA).certified(model.labels, cell.eps).mean())


def contradiction(cell: Cell, outcomes: Outcomes, model: CertifiedModel) -> str | None:
    """Describes an attack that broke more certified images than the certificate allows.

    An image counts if its perturbation is smaller than its certified radius, and all R draws of the deployed rule predict
    another class than the certified one. If a certificate by smoothing is right, a draw predicts the certified class
    with probability 1/2 or more. So all R draws are wrong with a probability of at most ``q^R``, where ``q`` is the
    probability that a vote has no majority for the class. The certificate itself is wrong with probability
    :data:`ALPHA`. A binomial test at level :data:`LEVEL` compares the count with both. A certificate by intervals is a
    proof, which no image may contradict.

    Args:
        cell: The cell.
        outcomes: The cell's outcomes.
        model: The certificate; see :func:`certificate_of`.

    Returns:
        One line; ``None`` without a contradiction.
    """
    common = min(len(outcomes.labels), len(model.labels))
    if (outcomes.labels[:common] != model.labels[:common]).any():
        return None
    certificates = model.certificates(alpha=ALPHA)
    predicted, radius = certificates.predicted[:common], certificates.radius[:common]
    distance = outcomes.linf if model.procedure.norm == "linf" else outcomes.l2
    inside = (predicted >= 0) & (distance[:, :common] < radius * (1 - 1e-6))
    broken = inside & (outcomes.perturbed[:, :, :common] != predicted).all(axis=1)
    count, tried = int(broken.any(axis=0).sum()), int(inside.any(axis=0).sum())
    if not count:
        return None
    finding = (
        f"cell {cell.id} ({cell.defense} {cell.attack_label}): {count} of {tried} images were broken inside their certified "
        "radius, by"
    )
    cause = "the certificate or the attack's row is wrong"
    if isinstance(model.procedure, Intervals):
        return f"{finding} intervals in linf, which is impossible: {cause}"
    # Such an attack selects images on the very draws that are counted.
    if cell.accounting == "single-draw":
        return None
    chance = _chance(cell, outcomes, attempts=len(inside))
    if np.greater_equal(stats.binom.sf(count - 1, tried, chance), LEVEL):
        return None
    expected = f"at most {chance * tried:.2g} are expected"
    return f"{finding} smoothing in l2 at sigma {model.procedure.sigma:g}, where {expected}: {cause}"


def _chance(cell: Cell, outcomes: Outcomes, *, attempts: int) -> float:
    """The largest probability that an image counts as a contradiction by chance, in several attempts."""
    smoothing = _smoothing(cell)
    draws = smoothing.draws if smoothing is not None and smoothing.decision == "vote" else 1
    no_majority = float(stats.binom.cdf(draws // 2, draws, 0.5)) if draws > 1 else 0.5
    draws_scored = outcomes.clean.shape[0]
    return float(min(1.0, ALPHA + attempts * no_majority**draws_scored))
