"""Compares attacks with certificates: the images certified at a cell's radius, and contradictions between the two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing
from robustbench_cli.benchmarks.certification.certify import CertifiedModel
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.randomized_smoothing import RandomizedSmoothing

__all__ = [
    "ALPHA",
    "LEVEL",
    "ContradictedProofError",
    "certificates_of",
    "certified_images",
    "contradiction",
    "is_proof",
]

ALPHA = 0.001
"""The largest probability that a certificate by smoothing is wrong, in a comparison with attacks."""

LEVEL = 0.001
"""The significance level of a contradiction between attacks and a certificate by smoothing."""


class ContradictedProofError(RuntimeError):
    """An attack broke an image whose prediction is proven: one of the two is wrong."""


def certificates_of(cell: Cell, models: Sequence[CertifiedModel]) -> list[CertifiedModel]:
    """The certificates of the model that a cell attacks: all proofs, and the certificate by smoothing with the most images.

    A certificate by smoothing holds only for a cell whose defense is the same smoothing and whose decision rule is one
    draw or the vote. A corrupted image is another image than the certified one, and a cell that stops early has its own
    order of images. A user's own defense is skipped, since a store must not select the code that runs.

    Args:
        cell: The cell.
        models: The certificates.
    """
    if cell.corruption is not None or cell.stop_when_decided is not None:
        return []
    same = [
        model for model in models if (model.checkpoint, model.described["dataset"]) == (cell.checkpoint, cell.dataset)
    ]
    proofs = [model for model in same if is_proof(model)]
    sigma = _sigma(cell) if len(proofs) < len(same) else None
    smoothed = [model for model in same if not is_proof(model) and model.procedure.parameters["sigma"] == sigma]
    # Each further one would add its chance of being wrong.
    return proofs + ([max(smoothed, key=lambda model: len(model.labels))] if smoothed else [])


def is_proof(model: CertifiedModel) -> bool:
    """Whether a certificate holds for certain, unlike one by smoothing."""
    return not isinstance(model.procedure, Smoothing)


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


def certified_images(
    cell: Cell, labels: NDArray[np.int64], models: Sequence[CertifiedModel]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images are certified at a cell's radius by one of several certificates.

    Args:
        cell: The cell.
        labels: ``(N,)`` the true classes of its images.
        models: Its certificates; see :func:`certificates_of`. One in another norm, or of other images, does not count.

    Returns:
        ``(N,)``: the images that some certificate has, and those of them that are certified.
    """
    known, certified = np.zeros((2, len(labels)), dtype=np.bool_)
    for model in models:
        common = min(len(labels), len(model.labels))
        is_same = cell.norm == model.procedure.norm and np.array_equal(labels[:common], model.labels[:common])
        if is_same and cell.eps is not None:
            known[:common] = True
            certified[:common] |= model.certificates(alpha=ALPHA).certified(model.labels, cell.eps)[:common]
    return known, certified


def contradiction(cell: Cell, outcomes: Outcomes, model: CertifiedModel) -> str | None:
    """Describes an attack that broke more certified images than the certificate allows.

    An image counts if its perturbation is smaller than its certified radius, and all R draws of the deployed rule predict
    another class than the certified one. If a certificate by smoothing is right, a draw predicts the certified class
    with probability 1/2 or more. So all R draws are wrong with a probability of at most ``q^R``, where ``q`` is the
    probability that a vote has no majority for the class. The certificate itself is wrong with probability
    :data:`ALPHA`. A binomial test at level :data:`LEVEL` compares the count with both. A certificate of another kind is a
    proof, which no image may contradict.

    Args:
        cell: The cell.
        outcomes: The cell's outcomes.
        model: The certificate; see :func:`certificates_of`.

    Returns:
        One line; ``None`` without a contradiction.
    """
    common = min(len(outcomes.labels), len(model.labels))
    if (outcomes.labels[:common] != model.labels[:common]).any():
        return None
    certificates = model.certificates(alpha=ALPHA)
    predicted, radius = certificates.predicted[:common], certificates.radius[:common]
    distance = _distance(cell, outcomes, model.procedure.norm)
    if distance is None:
        return None
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
    if not isinstance(model.procedure, Smoothing):
        return f"{finding} {model.procedure.name} in {model.procedure.norm}, which is impossible: {cause}"
    # Such an attack selects images on the very draws that are counted.
    if cell.accounting == "single-draw":
        return None
    chance = _chance(cell, outcomes, attempts=len(inside))
    if np.greater_equal(stats.binom.sf(count - 1, tried, chance), LEVEL):
        return None
    expected = f"at most {chance * tried:.2g} are expected"
    return f"{finding} smoothing in l2 at sigma {model.procedure.sigma:g}, where {expected}: {cause}"


def _distance(cell: Cell, outcomes: Outcomes, norm: Norm) -> Floats | None:
    """``(T, N)`` the perturbations in a norm; ``None`` where the outcomes do not have it."""
    if norm == cell.norm:
        return outcomes.distance
    return {"linf": outcomes.linf, "l2": outcomes.l2}.get(norm)


def _chance(cell: Cell, outcomes: Outcomes, *, attempts: int) -> float:
    """The largest probability that an image counts as a contradiction by chance, in several attempts."""
    smoothing = _smoothing(cell)
    draws = smoothing.draws if smoothing is not None and smoothing.decision == "vote" else 1
    no_majority = float(stats.binom.cdf(draws // 2, draws, 0.5)) if draws > 1 else 0.5
    draws_scored = outcomes.clean.shape[0]
    return float(min(1.0, ALPHA + attempts * no_majority**draws_scored))
