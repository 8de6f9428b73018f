"""What became of every image: the raw result of a cell, from which every figure of its row is computed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.attacks.base.models.special_labels import NO_NUMBER, REJECTED
from robustbench_cli.benchmarks.datasets.base.arrays import read_arrays
from robustbench_cli.benchmarks.evaluation.statistics import Floats, images_interval, passes_interval

__all__ = ["Outcomes", "summarise", "worst_case"]

Integers = NDArray[np.int64]

_DIMENSIONS = {
    "labels": 1,
    "targets": 2,
    "clean": 2,
    "clean_survival": 1,
    "perturbed": 3,
    "survival": 2,
    "distance": 2,
    "l2": 2,
    "linf": 2,
    "draws_shared": 0,
}
_WHOLE = frozenset({"labels", "targets", "clean", "perturbed"})
_MOST_CLASSES = 2**20


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Predictions and distances of N images, attacked towards T goals (1, or one for every wrong class), over R draws.

    Every prediction is the deployed decision rule's: a class, or a rejection or a failure as in
    :func:`~robustbench_cli.attacks.base.models.decision.decisions`. To reject a clean image is wrong; to reject a perturbed
    one is right, unless the clean image is rejected in that draw too. The clean and the perturbed image see the same R
    draws, so that they agree where they are equal. How well an image survives is judged on other draws, kept for
    choosing: no choice among images may lower a number that no attack lowered. The attack saw neither.

    Attributes:
        labels: ``(N,)`` the true classes.
        targets: ``(T, N)`` the classes to reach; ``(0, N)`` for an untargeted attack.
        clean: ``(R, N)`` predictions on the clean images.
        clean_survival: ``(N,)`` how well the clean image survives: the share of draws that are right, with a little for
            the margin between equal shares.
        perturbed: ``(T, R, N)`` predictions on the perturbed images.
        survival: ``(T, N)`` how well the perturbed images survive.
        distance: ``(T, N)`` in the norm of the cell.
        l2: ``(T, N)``.
        linf: ``(T, N)``.
        draws_shared: ``()`` whether all images of a pass share its draw, so that the R draws are passes.
    """

    labels: Integers
    targets: Integers
    clean: Integers
    clean_survival: Floats
    perturbed: Integers
    survival: Floats
    distance: Floats
    l2: Floats
    linf: Floats
    draws_shared: NDArray[np.bool_] = field(default_factory=lambda: np.asarray(False))

    def within(self, eps: float) -> Outcomes:
        """The outcomes for an adversary of radius ``eps``: what lies further away is replaced by the clean image."""
        outside = self.distance > eps
        return replace(
            self,
            perturbed=np.where(outside[:, None], self.clean, self.perturbed),
            survival=np.where(outside, self.clean_survival, self.survival),
            distance=np.where(outside, 0.0, self.distance),
            l2=np.where(outside, 0.0, self.l2),
            linf=np.where(outside, 0.0, self.linf),
        )

    def fell(self) -> NDArray[np.bool_]:
        """``(N,)``: whose worst candidate was classified wrong in every draw, to score and to choose on."""
        return np.asarray((self.worst() != self.labels).all(axis=0) & (self.least_survival() <= 0))

    def joined(self, rows: Integers, later: Outcomes) -> Outcomes:
        """These outcomes after a later attack on the images ``rows`` alone, of which each image's worst is kept."""
        worse = worst_case([_select(self, rows), later])
        arrays = {name: getattr(self, name).copy() for name in _OF_IMAGES}
        for name, array in arrays.items():
            array[..., rows] = getattr(worse, name)
        return replace(self, **arrays)

    @property
    def clean_right(self) -> NDArray[np.bool_]:
        """``(R, N)``: where the clean image is classified right."""
        return np.equal(self.clean, self.labels)

    def least_survival(self) -> Floats:
        """``(N,)``: how well each image's worst candidate survives."""
        return np.asarray(np.minimum(self.survival.min(axis=0), self.clean_survival))

    def nearest_success(self) -> Floats:
        """``(N,)``: the smallest distance at which an image fell, infinite where it did not."""
        return np.asarray(np.where(self.survival < 0.5, self.distance, np.inf).min(axis=0), dtype=np.float64)

    @property
    def answers(self) -> Integers:
        """``(T, R, N)``: the predictions on the perturbed images, with the label in the place of a right rejection."""
        held_off = (self.perturbed == REJECTED) & (self.clean != REJECTED)
        return np.asarray(np.where(held_off, self.labels, self.perturbed))

    def worst(self) -> Integers:
        """``(R, N)`` answers on each image's worst candidate, of the perturbed images and the clean one."""
        candidates = np.concatenate([self.answers, self.clean[None]])
        chosen = np.concatenate([self.survival, self.clean_survival[None]]).argmin(axis=0)
        return candidates[chosen, :, np.arange(len(self.labels))].T

    def success(self) -> tuple[Floats, Floats]:
        """How often the attack succeeded and how often it could have, each ``(N,)``; their sums' quotient is the rate.

        Untargeted: draws in which the clean image is right and the worst candidate is not, of those in which the clean
        image is right. Targeted: draws and targets in which the target is reached, of all.
        """
        if len(self.targets):
            reached = self.perturbed == self.targets[:, None]
            return reached.mean(axis=(0, 1), dtype=np.float64), np.ones(len(self.labels))
        right = self.clean_right
        broken = right & (self.worst() != self.labels)
        return broken.mean(axis=0, dtype=np.float64), right.mean(axis=0, dtype=np.float64)

    def to_bytes(self) -> bytes:
        """The ``.npz`` file."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = vars(self)
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Outcomes:
        """Reads what :meth:`to_bytes` wrote.

        Raises:
            ValueError: It holds anything else.
        """
        arrays = read_arrays(io.BytesIO(content))
        # Older files do not say whether draws are shared.
        arrays.setdefault("draws_shared", np.asarray(False))
        if arrays.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"it holds the arrays {', '.join(sorted(arrays)):.200}")
        if any(arrays[name].ndim != dimensions for name, dimensions in _DIMENSIONS.items()):
            raise ValueError("its arrays have other shapes")
        goals, draws, images = arrays["perturbed"].shape
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("survival", "distance", "l2", "linf"), (goals, images))
        shapes |= {"labels": (images,), "clean_survival": (images,), "clean": (draws, images)}
        if len(arrays["targets"]):
            shapes["targets"] = (goals, images)
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"'{name}' has the shape {arrays[name].shape} where others have {shape}")
        for name, array in arrays.items():
            whole = name in _WHOLE
            if array.dtype.kind not in ("b" if name == "draws_shared" else "iu" if whole else "f"):
                raise ValueError(f"'{name}' is of type {array.dtype}")
            if whole and array.size and not (array.min() >= NO_NUMBER and array.max() < _MOST_CLASSES):
                raise ValueError(f"'{name}' holds what is no class")
        if not (goals and draws and images):
            raise ValueError("it is of no images")
        return cls(**arrays)


_OF_IMAGES = [each.name for each in fields(Outcomes) if each.name != "draws_shared"]
"""The arrays whose last dimension counts images."""


def worst_case(attacks: Sequence[Outcomes], *, nearest: bool = False) -> Outcomes:
    """For each image, the outcomes of the attack whose worst candidate survives least.

    Args:
        attacks: Untargeted outcomes of one model, slice and threat, or targeted ones with as many targets.
        nearest: Where any distance counts: take, of the attacks that the deployed rule survives less often than not,
            the one with the smallest perturbation.
    """
    badness = np.stack([each.nearest_success() if nearest else each.least_survival() for each in attacks])
    chosen = badness.argmin(axis=0)
    images = np.arange(len(chosen))

    def pick(name: str) -> Any:
        stacked = np.stack([getattr(outcomes, name) for outcomes in attacks])
        return np.moveaxis(stacked[chosen, ..., images], 0, -1)

    # With an attack's perturbed images go its clean ones, which saw the same draws.
    return replace(attacks[0], **{name: pick(name) for name in _OF_IMAGES})


def _select(outcomes: Outcomes, rows: Integers) -> Outcomes:
    return replace(outcomes, **{name: getattr(outcomes, name)[..., rows] for name in _OF_IMAGES})


def summarise(outcomes: Outcomes) -> dict[str, float]:
    """The figures of a row, as the contract names them; NaN where there is nothing to measure."""
    labels = outcomes.labels
    worst = outcomes.worst()
    interval = passes_interval if outcomes.draws_shared else images_interval
    clean_low, clean_high = interval(outcomes.clean_right)
    robust_low, robust_high = interval(worst == labels)
    succeeded, possible = outcomes.success()
    fell = _share_that_fell(outcomes)
    return {
        "clean_accuracy": float(outcomes.clean_right.mean()),
        "clean_accuracy_low": clean_low,
        "clean_accuracy_high": clean_high,
        "robust_accuracy": float((worst == labels).mean()),
        "robust_accuracy_low": robust_low,
        "robust_accuracy_high": robust_high,
        "robust_accuracy_vote": float(_most_votes(worst, labels).mean()),
        "robust_accuracy_every_draw": float((worst == labels).all(axis=0).mean()),
        "attack_success_rate": float(succeeded.sum() / possible.sum()) if possible.sum() else float("nan"),
        "mean_l2": _weighted_mean(outcomes.l2, fell),
        "mean_linf": _weighted_mean(outcomes.linf, fell),
    }


def _share_that_fell(outcomes: Outcomes) -> Floats:
    """``(T, N)``: in how many draws the perturbation did what the clean image did not."""
    if len(outcomes.targets):
        goal = outcomes.targets[:, None]
        fell = (outcomes.perturbed == goal) & (outcomes.clean[None] != goal)
    else:
        fell = (outcomes.answers != outcomes.labels) & outcomes.clean_right[None]
    return np.asarray(fell.mean(axis=1), dtype=np.float64)


def _most_votes(predictions: Integers, labels: Integers) -> NDArray[np.bool_]:
    """``(N,)``: whether more draws voted for the label than for any other answer, a rejection or failure too."""
    answers = np.arange(NO_NUMBER, max(int(predictions.max(initial=0)), int(labels.max(initial=0))) + 1)
    votes = (predictions[:, :, None] == answers).sum(axis=0)
    own = answers == labels[:, None]
    return np.asarray(votes[own] > np.where(own, -1, votes).max(axis=1))


def _weighted_mean(values: Floats, weights: Floats) -> float:
    total = float(weights.sum())
    return float((values * weights).sum() / total) if total else float("nan")
