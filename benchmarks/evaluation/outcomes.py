"""The outcome of every image: the raw result of a cell, from which all figures of its row are computed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.attacks.base.models.special_labels import NO_NUMBER, REJECTED
from robustbench_cli.benchmarks.datasets.base.arrays import Array, DifferentArraysError, read_arrays, read_stacked
from robustbench_cli.benchmarks.evaluation.statistics.efficiency import SuccessCounts
from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats, images_interval, passes_interval

__all__ = ["Outcomes", "most_votes", "summarize", "worst_case"]

Integers = NDArray[np.int64]

# In the order of the stored record: the wider types come first, which takes little padding.
_DIMENSIONS = {
    "clean_survival": 1,
    "survival": 2,
    "distance": 2,
    "l2": 2,
    "linf": 2,
    "labels": 1,
    "targets": 2,
    "clean": 2,
    "perturbed": 3,
    "draws_shared": 0,
}
_INTEGERS = ("labels", "targets", "clean", "perturbed")
_ROUNDED = ("clean_survival", "survival", "l2", "linf")
_MOST_CLASSES = 2**20

# The margin adds at most a third of a draw to the share of right draws, and takes at most as much from it.
_FLOATS = dict.fromkeys(("clean_survival", "survival"), (-0.34, 1.34, "share of draws")) | dict.fromkeys(
    ("distance", "l2", "linf"), (0.0, np.finfo(np.float64).max, "finite distance")
)

_RECORD = "outcomes"
"""The name of the one array of a file. Files of earlier versions have an array for each attribute."""

_READ = frozenset({*_DIMENSIONS, _RECORD})


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Predictions and distances of N images and T targets (1, or one per wrong class) over R draws.

    The outcomes of several attacks on the same images are outcomes too (:meth:`stacked`): each array has one dimension more,
    the first, and so have the results of the methods below. Only :func:`summarize` and :meth:`joined` are for one attack.

    Each prediction is that of the deployed decision rule: a class, a rejection or a failure as in
    :func:`~robustbench_cli.attacks.base.models.decision.decisions`. A rejection of a clean image is wrong. A rejection of a
    perturbed image is right, unless the same draw rejects the clean image too. The clean and the perturbed image see the
    same R draws, so equal images get equal predictions. Survival is measured on a second set of draws, which selects
    among candidates: a selection on the scoring draws would lower a robust accuracy that no attack lowered. The attack has
    seen neither set.

    Attributes:
        labels: ``(N,)`` the true classes.
        targets: ``(T, N)`` the classes to reach; ``(0, N)`` for an untargeted attack.
        clean: ``(R, N)`` predictions on the clean images.
        clean_survival: ``(N,)`` survival of the clean images: the share of draws with the right prediction, plus a small
            term of the margin that ranks equal shares.
        perturbed: ``(T, R, N)`` predictions on the perturbed images.
        survival: ``(T, N)`` survival of the perturbed images; this and ``clean_survival`` are rounded to 32 bits.
        distance: ``(T, N)`` in the norm of the cell.
        l2: ``(T, N)``, rounded to 32 bits.
        linf: ``(T, N)``, rounded to 32 bits.
        draws_shared: ``()`` whether all images of a pass share one draw, so that the R draws are R passes.
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
        """The outcomes at radius ``eps``: a perturbed image outside it is replaced by the clean image."""
        outside = self.distance > eps
        return replace(
            self,
            perturbed=np.where(outside[..., None, :], self.clean[..., None, :, :], self.perturbed),
            survival=np.where(outside, self.clean_survival[..., None, :], self.survival),
            distance=np.where(outside, 0.0, self.distance),
            l2=np.where(outside, 0.0, self.l2),
            linf=np.where(outside, 0.0, self.linf),
        )

    def broken(self) -> NDArray[np.bool_]:
        """``(N,)``: whether all draws, those that score and those that select, misclassify the worst candidate."""
        return np.asarray(~self.worst_right.any(axis=-2) & (self.least_survival <= 0))

    def joined(self, rows: Integers, later: Outcomes) -> Outcomes:
        """These outcomes after a later attack on some of the images, with the worst case of both for these images.

        Args:
            rows: ``(M,)``, indices of the images that the later attack ran on.
            later: Its outcomes, of M images.
        """
        worse = worst_case([_select(self, rows), later])
        arrays = {name: getattr(self, name).copy() for name in _OF_IMAGES}
        for name, array in arrays.items():
            array[..., rows] = getattr(worse, name)
        return replace(self, **arrays)

    @cached_property
    def clean_right(self) -> NDArray[np.bool_]:
        """``(R, N)``: whether the clean image is classified correctly."""
        return np.equal(self.clean, self.labels[..., None, :])

    @cached_property
    def least_survival(self) -> Floats:
        """``(N,)``: the survival of each image's worst candidate."""
        return np.asarray(np.minimum(self.survival.min(axis=-2), self.clean_survival))

    def nearest_success(self) -> Floats:
        """``(N,)``: the smallest distance at which an image was broken; infinite where it was not."""
        return np.asarray(np.where(self.survival < 0.5, self.distance, np.inf).min(axis=-2), dtype=np.float64)

    @property
    def answers(self) -> Integers:
        """``(T, R, N)``: the predictions on the perturbed images, with the label instead of a right rejection."""
        rejected = self.perturbed == REJECTED
        if not rejected.any():
            return self.perturbed
        rightly_rejected = rejected & (self.clean != REJECTED)[..., None, :, :]
        return np.asarray(np.where(rightly_rejected, self.labels[..., None, None, :], self.perturbed))

    def worst(self) -> Integers:
        """``(R, N)``: the predictions on each image's worst candidate, among the perturbed images and the clean one."""
        return self._worst

    @cached_property
    def _worst(self) -> Integers:
        return self._of_worst_candidate(self.answers, self.clean)

    @cached_property
    def worst_right(self) -> NDArray[np.bool_]:
        """``(R, N)``: whether each image's worst candidate is classified correctly."""
        return self._of_worst_candidate(np.equal(self.answers, self.labels[..., None, None, :]), self.clean_right)

    def _of_worst_candidate(self, of_perturbed: Array, of_clean: Array) -> Array:
        """``(R, N)``: what two arrays, ``(T, R, N)`` and ``(R, N)``, hold of each image's worst candidate."""
        if self.survival.shape[-2] == 1:
            worst, least = of_perturbed[..., 0, :, :], self.survival[..., 0, :]
        else:
            chosen = self.survival.argmin(axis=-2)[..., None, None, :]
            worst, least = np.take_along_axis(of_perturbed, chosen, axis=-3)[..., 0, :, :], self.survival.min(axis=-2)
        return np.where((self.clean_survival < least)[..., None, :], of_clean, worst)

    @cached_property
    def right_shares(self) -> Floats:
        """``(N,)``: the share of draws in which each image's worst candidate is classified correctly."""
        right = self.worst_right
        # The mean of a single draw takes several times as long as a copy.
        return np.asarray(right[..., 0, :] if right.shape[-2] == 1 else right.mean(axis=-2), dtype=np.float64)

    def success(self) -> SuccessCounts:
        """The attack's successes and its possible successes on each image; the quotient of their sums is the rate.

        Untargeted: a success is a draw in which the clean image is right and the worst candidate is wrong; possible are the
        draws in which the clean image is right. Targeted: a success is a draw and target in which the prediction is the
        target; all are possible.
        """
        right = self.clean_right
        *_, targets, draws, _ = self.perturbed.shape
        # A report keeps the counts of all its rows.
        small = np.min_scalar_type(targets * draws)
        clean = right.sum(axis=-2, dtype=small)
        if self.targets.shape[-2]:
            reached = self.perturbed == self.targets[..., None, :]
            succeeded, possible = reached.sum(axis=(-3, -2), dtype=small), np.full_like(clean, targets * draws)
        else:
            succeeded = (right & ~self.worst_right).sum(axis=-2, dtype=small)
            possible = clean
        return SuccessCounts(succeeded=succeeded, possible=possible, clean=clean, draws=draws)

    @classmethod
    def stacked(cls, attacks: Sequence[Outcomes]) -> Outcomes:
        """The outcomes of several attacks as one, with a first dimension for the attacks.

        Args:
            attacks: Outcomes of one model, slice and threat.

        Raises:
            ValueError: They have different shapes.
        """
        return cls(**{name: np.stack([getattr(outcomes, name) for outcomes in attacks]) for name in _DIMENSIONS})

    def of_attack(self, number: int) -> Outcomes:
        """The outcomes of one of several stacked attacks.

        Args:
            number: Its index among them.
        """
        outcomes = replace(self, **{name: np.asarray(getattr(self, name)[number]) for name in _DIMENSIONS})
        # What is computed of all attacks together is not computed again.
        vars(outcomes).update({name: vars(self)[name][number] for name in _CACHED & vars(self).keys()})
        return outcomes

    def strongest_attack(self, *, nearest: bool = False) -> Integers:
        """``(N,)``: the index of the stacked attack whose worst candidate each image survives least.

        Args:
            nearest: For attacks without a radius: take the attack with the smallest perturbation among those that break the
                image in more than half of the draws.
        """
        return np.asarray((self.nearest_success() if nearest else self.least_survival).argmin(axis=0))

    def worst_attack(self, *, nearest: bool = False) -> Outcomes:
        """The per-image worst case over stacked attacks: the outcomes of :meth:`strongest_attack`.

        Args:
            nearest: As there.
        """
        strongest = self.strongest_attack(nearest=nearest)
        images = np.arange(len(strongest))

        def pick(name: str) -> Any:
            # Indices on both ends take a fraction of the time of np.take_along_axis, and put the images first.
            return np.moveaxis(getattr(self, name)[strongest, ..., images], 0, -1)

        # The clean predictions come from the same attack, since they saw the same draws.
        picked = {name: pick(name) for name in _OF_IMAGES if getattr(self, name).size}
        return replace(self.of_attack(0), **picked)

    def to_bytes(self) -> bytes:
        """The ``.npz`` file: one record whose fields are the attributes, in the smallest types that hold the values.

        All integers have one type, and the distance has 64 bits, so that the files of attacks on one model are alike and are
        read together. Nothing is compressed: unpacking took most of the time of a large report.
        """
        arrays: dict[str, Array] = {name: getattr(self, name) for name in _DIMENSIONS}
        lowest = min(min(arrays[name].min(initial=0), -1 - arrays[name].max(initial=0)) for name in _INTEGERS)
        types = dict.fromkeys(_INTEGERS, np.min_scalar_type(lowest))
        types |= {name: np.dtype("f4") for name in _ROUNDED if np.array_equal(arrays[name], arrays[name].astype("f4"))}
        fields_of_file = [(name, types.get(name, array.dtype), array.shape) for name, array in arrays.items()]
        # Zeros also fill the padding, so that equal outcomes have equal files.
        record = np.zeros((), np.dtype(fields_of_file, align=True))
        for name, array in arrays.items():
            record[name] = array
        buffer = io.BytesIO()
        np.savez(buffer, outcomes=record)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Outcomes:
        """Reads the content of an ``.npz`` file that :meth:`to_bytes` wrote, in this version or an earlier one.

        Raises:
            ValueError: The content is anything else.
        """
        outcomes = cls._checked(read_arrays(io.BytesIO(content), _READ))
        # Arithmetic with the small types of the file could overflow, and would round.
        wide = {name: getattr(outcomes, name).astype(np.int64) for name in _INTEGERS}
        return replace(outcomes, **wide, **{name: getattr(outcomes, name).astype(np.float64) for name in _ROUNDED})

    @classmethod
    def from_files(cls, contents: Sequence[bytes]) -> Outcomes:
        """The stacked outcomes of several attacks, from the contents of their files; see :meth:`from_bytes`.

        The arrays keep the small types of the files.

        Raises:
            ValueError: One of them is anything else, or they have different shapes.
        """
        try:
            arrays = read_stacked(contents, _READ)
        except DifferentArraysError:
            # Files of several versions, or a class whose number is too large for the type of the others.
            return cls.stacked([cls.from_bytes(content) for content in contents])
        return cls._checked(arrays, len(contents))

    @classmethod
    def _checked(cls, arrays: dict[str, Array], *attacks: int) -> Outcomes:
        """Outcomes of arrays of any origin.

        Args:
            arrays: The arrays by name.
            *attacks: The number of attacks, where they are stacked.
        """
        arrays = _attributes(arrays, attacks)
        if arrays.keys() != _DIMENSIONS.keys():
            raise ValueError(f"it has the arrays {', '.join(sorted(arrays)):.200}")
        if any(arrays[name].ndim != len(attacks) + dimensions for name, dimensions in _DIMENSIONS.items()):
            raise ValueError("its arrays have other shapes")
        *_, targets, draws, images = arrays["perturbed"].shape
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("survival", "distance", "l2", "linf"), (targets, images))
        shapes |= {"labels": (images,), "clean_survival": (images,), "clean": (draws, images)}
        if arrays["targets"].shape[-2]:
            shapes["targets"] = (targets, images)
        for name, shape in shapes.items():
            if arrays[name].shape != (*attacks, *shape):
                raise ValueError(f"'{name}' has the shape {arrays[name].shape} where others have {(*attacks, *shape)}")
        for name, array in arrays.items():
            is_integer = name in _INTEGERS
            if array.dtype.kind not in ("b" if name == "draws_shared" else "iu" if is_integer else "f"):
                raise ValueError(f"'{name}' is of type {array.dtype}")
            if is_integer and array.size and not (array.min() >= NO_NUMBER and array.max() < _MOST_CLASSES):
                raise ValueError(f"'{name}' has values that are no class")
        if not (targets and draws and images):
            raise ValueError("it has no images")
        _require_ranges(arrays)
        return cls(**arrays)


def _require_ranges(arrays: dict[str, Array]) -> None:
    for name, (least, most, meaning) in _FLOATS.items():
        # The comparison is false for NaN.
        if not (arrays[name].min() >= least and arrays[name].max() <= most):
            raise ValueError(f"'{name}' has values that are no {meaning}")


def _attributes(arrays: dict[str, Array], attacks: tuple[int, ...]) -> dict[str, Array]:
    """The attributes in a file of any version, by name."""
    if _RECORD not in arrays:
        # The oldest files lack this one.
        return {"draws_shared": np.zeros(attacks, dtype=np.bool_)} | arrays
    record = arrays[_RECORD]
    return {name: record[name] for name in record.dtype.names or ()}


_OF_IMAGES = [field.name for field in fields(Outcomes) if field.name != "draws_shared"]
"""The arrays whose last dimension is the images."""

_CACHED = {name for name, value in vars(Outcomes).items() if isinstance(value, cached_property)}
"""The properties that stay in memory. The first dimension of each is the attacks, if the outcomes are stacked."""


def worst_case(attacks: Sequence[Outcomes], *, nearest: bool = False) -> Outcomes:
    """The per-image worst case over attacks; see :meth:`Outcomes.worst_attack`.

    Args:
        attacks: Outcomes of one model, slice and threat, with the same number of targets.
        nearest: As there.
    """
    return Outcomes.stacked(attacks).worst_attack(nearest=nearest)


def _select(outcomes: Outcomes, rows: Integers) -> Outcomes:
    return replace(outcomes, **{name: getattr(outcomes, name)[..., rows] for name in _OF_IMAGES})


def summarize(outcomes: Outcomes) -> dict[str, float]:
    """The figures of a row, by column; NaN where there is nothing to measure."""
    right = outcomes.worst_right
    interval = passes_interval if outcomes.draws_shared else images_interval
    clean_low, clean_high = interval(outcomes.clean_right)
    robust_low, robust_high = interval(right)
    counts = outcomes.success()
    succeeded, possible = int(counts.succeeded.sum()), int(counts.possible.sum())
    broken = _broken_shares(outcomes)
    return {
        "clean_accuracy": float(outcomes.clean_right.mean()),
        "clean_accuracy_low": clean_low,
        "clean_accuracy_high": clean_high,
        "robust_accuracy": float(right.mean()),
        "robust_accuracy_low": robust_low,
        "robust_accuracy_high": robust_high,
        "robust_accuracy_vote": float(most_votes(outcomes.worst(), outcomes.labels).mean()),
        "robust_accuracy_every_draw": float(right.all(axis=0).mean()),
        "attack_success_rate": succeeded / possible if possible else float("nan"),
        "mean_l2": _weighted_mean(outcomes.l2, broken),
        "mean_linf": _weighted_mean(outcomes.linf, broken),
    }


def _broken_shares(outcomes: Outcomes) -> Floats:
    """``(T, N)``: the share of draws in which the perturbation succeeds and the clean image does not."""
    if len(outcomes.targets):
        target = outcomes.targets[:, None]
        broken = (outcomes.perturbed == target) & (outcomes.clean[None] != target)
    else:
        broken = (outcomes.answers != outcomes.labels) & outcomes.clean_right[None]
    return np.asarray(broken.mean(axis=1), dtype=np.float64)


def most_votes(predictions: Integers, labels: Integers) -> NDArray[np.bool_]:
    """``(N,)``: whether more draws vote for the label than for any other answer; a rejection or failure is an answer too.

    Args:
        predictions: ``(R, N)``.
        labels: ``(N,)``.
    """
    images, labels = np.arange(len(labels)), labels.astype(np.int64) - NO_NUMBER
    answers = max(int(predictions.max(initial=0)) - NO_NUMBER, int(labels.max(initial=0))) + 1
    cells = predictions + (images * answers - NO_NUMBER)
    votes = np.bincount(cells.ravel(), minlength=len(labels) * answers).reshape(-1, answers)
    of_label = votes[images, labels]
    votes[images, labels] = -1
    return np.asarray(of_label > votes.max(axis=1))


def _weighted_mean(values: Floats, weights: Floats) -> float:
    total = float(weights.sum())
    return float((values * weights).sum() / total) if total else float("nan")
