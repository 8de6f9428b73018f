"""The Defense Efficiency Score, with a paired bootstrap over the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats

__all__ = ["LOSS_FLOOR", "DefenseEfficiency", "SuccessCounts", "defense_efficiencies"]

Counts = NDArray[np.integer[Any]]

Value = TypeVar("Value")

LOSS_FLOOR = 0.1
"""The smallest loss of clean accuracy, in points, that divides a Defense Efficiency Score."""

_PAIRS_AT_ONCE = 128
"""Scores that are computed in one matrix product; more take more memory, and no less time."""


@dataclass(frozen=True)
class DefenseEfficiency:
    """A Defense Efficiency Score with its parts, in percentage points.

    Attributes:
        score: Points of attack success prevented per point of clean accuracy lost; the loss is at least
            :data:`LOSS_FLOOR`.
        low: Lower end of the score's 95 % confidence interval.
        high: Upper end.
        loss: Points of clean accuracy lost, without the floor.
        loss_within_interval: Whether the loss is not statistically significant: its 95 % confidence interval includes 0.
    """

    score: float
    low: float
    high: float
    loss: float
    loss_within_interval: bool


@dataclass(frozen=True, kw_only=True)
class SuccessCounts:
    """What a Defense Efficiency Score counts of a model under attack. Counts, so that their sums are exact.

    Attributes:
        succeeded: ``(N,)``, the successes of the attack on each image, over draws and targets.
        possible: ``(N,)``, its possible successes; the success rate is the quotient of both sums.
        clean: ``(N,)``, the draws in which the clean image is classified correctly.
        draws: The number of draws.
    """

    succeeded: Counts
    possible: Counts
    clean: Counts
    draws: int

    def of_each(self) -> Iterator[SuccessCounts]:
        """The counts of each attack, where these are of several: ``(A, N)``."""
        first = self.clean[0].copy()
        if self.possible is self.clean and (self.clean == first).all():
            # Most attacks have the same clean predictions, so that the attacks of a large report share one array.
            for succeeded in self.succeeded:
                yield SuccessCounts(succeeded=succeeded, possible=first, clean=first, draws=self.draws)
            return
        for succeeded, possible, clean in zip(self.succeeded, self.possible, self.clean, strict=True):
            yield SuccessCounts(succeeded=succeeded, possible=possible, clean=clean, draws=self.draws)


def defense_efficiencies(
    pairs: Sequence[tuple[SuccessCounts, SuccessCounts]], *, resamples: int = 2000, seed: int = 0
) -> list[DefenseEfficiency | None]:
    """The Defense Efficiency Scores (Wang et al., IJCAI 2019, abstract) with a paired bootstrap over the images.

    Args:
        pairs: The undefended and the defended model of each score, on the same images.
        resamples: The number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        Each score; ``None`` if one of the attacks has no possible success.

    >>> images, ones = np.arange(100), np.ones(100, dtype=np.int64)
    >>> undefended = SuccessCounts(succeeded=ones, possible=ones, clean=ones, draws=1)
    >>> defended = SuccessCounts(succeeded=(images < 40) * 1, possible=ones, clean=(images < 90) * 1, draws=1)
    >>> (score,) = defense_efficiencies([(undefended, defended)])
    >>> score.score, score.loss, score.loss_within_interval
    (6.0, 10.0, False)
    """
    # Pairs with one undefended model come one after another: what they have in common is computed once.
    can_succeed = {id(model): bool(model.possible.any()) for pair in pairs for model in pair}
    of_model: defaultdict[int, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        if all(can_succeed[id(model)] for model in pair):
            of_model[id(pair[0])].append(index)
    of_size: defaultdict[int, list[int]] = defaultdict(list)
    for indices in of_model.values():
        of_size[len(pairs[indices[0]][0].clean)] += indices
    scores: list[DefenseEfficiency | None] = [None] * len(pairs)
    for indices in of_size.values():
        for start in range(0, len(indices), _PAIRS_AT_ONCE):
            batch = indices[start : start + _PAIRS_AT_ONCE]
            of_batch = _efficiencies([pairs[index] for index in batch], resamples, seed)
            for index, score in zip(batch, of_batch, strict=True):
                scores[index] = score
    return scores


@lru_cache(maxsize=1)
def _resampling_weights(images: int, resamples: int, seed: int, precision: type[np.floating[Any]]) -> NDArray[Any]:
    """``(images, 1 + resamples)``: how often each sample has each image. The first sample is the images themselves."""
    # Far faster than multinomial draws, which have the same distribution.
    drawn = np.random.default_rng(seed).integers(images, size=(resamples, images))
    drawn += images * np.arange(resamples)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return np.vstack([np.ones(images), weights]).T.astype(precision)


def _sums(counts: Counts, resamples: int, seed: int) -> Floats:
    """``(M, 1 + resamples)``: the sums of ``(M, N)`` counts over each sample, exact."""
    images = counts.shape[1]
    # Where they are small, they are exact in the faster type too.
    precision = np.float32 if int(counts.max()) * images < 2**24 else np.float64
    sums = counts.astype(precision) @ _resampling_weights(images, resamples, seed, precision)
    return np.asarray(sums, dtype=np.float64)


def _efficiencies(
    pairs: Sequence[tuple[SuccessCounts, SuccessCounts]], resamples: int, seed: int
) -> Iterator[DefenseEfficiency]:
    """The scores of some pairs of models with the same number of images, which have possible successes."""
    models = {id(model): model for pair in pairs for model in pair}
    # Attacks on one model have the clean images in common: what is equal is computed once.
    counts = _Distinct[Counts]()
    rows = {
        key: [counts.index(part.tobytes(), part) for part in (model.succeeded, model.possible, model.clean)]
        for key, model in models.items()
    }
    losses = _Distinct[tuple[int, int, int, int]]()
    lost = []
    for base, own in pairs:
        loss = rows[id(base)][2], base.draws, rows[id(own)][2], own.draws
        lost.append(losses.index(loss, loss))
    of_samples = _sums(np.stack(counts.values), resamples, seed)
    succeeded, possible, _ = np.array([*rows.values()]).T
    # A sample without a possible success has no rate: NaN.
    with np.errstate(invalid="ignore"):
        of_rates = 100 * of_samples[succeeded] / of_samples[possible]
    of_losses = np.stack(
        [
            # Over the common denominator, so that a loss of nothing is exactly 0.
            100
            * (of_samples[before] * draws - of_samples[after] * of_base)
            / (of_base * draws * len(pairs[0][0].clean))
            for before, of_base, after, draws in losses.values
        ]
    )
    loss_within_interval = _quantiles(of_losses[:, 1:], 0.025)[0] <= 0
    position = {key: index for index, key in enumerate(rows)}
    before, after = ([position[id(pair[side])] for pair in pairs] for side in (0, 1))
    scores = of_rates[before] - of_rates[after]
    scores /= np.maximum(of_losses, LOSS_FLOOR)[lost]
    low, high = _quantiles(scores[:, 1:], 0.025, 0.975)
    parts = (scores[:, 0], low, high, of_losses[lost, 0], loss_within_interval[lost])
    for score in zip(*(part.tolist() for part in parts), strict=True):
        yield DefenseEfficiency(*score)


def _quantiles(samples: Floats, *shares: float) -> NDArray[Any]:
    """``(len(shares), M)``: quantiles of each row of ``(M, B)`` samples; NaN samples do not count."""
    if np.isnan(samples).any():
        # This is slow, as it takes one row at a time. There are hardly ever any.
        return np.asarray(np.nanquantile(samples, shares, axis=1))
    # NumPy sorts numbers of 32 bits faster than it selects from those of 64.
    ordered = np.sort(samples.astype(np.float32), axis=1)
    positions = np.array(shares) * (ordered.shape[1] - 1)
    below = positions.astype(np.intp)
    above = np.minimum(below + 1, ordered.shape[1] - 1)
    return np.asarray((ordered[:, below] + (positions - below) * (ordered[:, above] - ordered[:, below])).T)


class _Distinct(Generic[Value]):
    """Values without repetitions.

    Attributes:
        values: The values.
    """

    def __init__(self) -> None:
        self.values: list[Value] = []
        self._indices: dict[Hashable, int] = {}

    def index(self, key: Hashable, value: Value) -> int:
        """Where the value is among the others; a key that is new adds it."""
        index = self._indices.setdefault(key, len(self.values))
        if index == len(self.values):
            self.values.append(value)
        return index
