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

_PAIRS_AT_ONCE = 64
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
    scores: list[DefenseEfficiency | None] = [None] * len(pairs)
    indices: defaultdict[int, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        if all(model.possible.any() for model in pair):
            indices[len(pair[0].clean)].append(index)
    for images, same_size in indices.items():
        weights = _resampling_weights(images, resamples, seed)
        for start in range(0, len(same_size), _PAIRS_AT_ONCE):
            batch = same_size[start : start + _PAIRS_AT_ONCE]
            for index, score in zip(batch, _efficiencies([pairs[index] for index in batch], weights), strict=True):
                scores[index] = score
    return scores


@lru_cache(maxsize=1)
def _resampling_weights(images: int, resamples: int, seed: int) -> Floats:
    """``(images, 1 + resamples)``: how often each sample has each image. The first sample is the images themselves."""
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    return np.vstack([np.ones(images), weights]).T


def _efficiencies(pairs: Sequence[tuple[SuccessCounts, SuccessCounts]], weights: Floats) -> Iterator[DefenseEfficiency]:
    """The scores of some pairs of models with the same number of images, which have possible successes."""
    # Many pairs have a model in common, and attacks on one model have the clean images in common: what is equal is computed
    # once.
    counts = _Distinct[Counts]()
    rates = _Distinct[tuple[int, int]]()
    losses = _Distinct[tuple[tuple[int, int], ...]]()

    def sums(of_images: Counts) -> int:
        return counts.index(of_images.tobytes(), of_images)

    def rate(model: SuccessCounts) -> int:
        key = sums(model.succeeded), sums(model.possible)
        return rates.index(key, key)

    def loss(pair: tuple[SuccessCounts, SuccessCounts]) -> int:
        key = tuple((sums(model.clean), model.draws) for model in pair)
        return losses.index(key, key)

    indices = [(rate(undefended), rate(defended), loss((undefended, defended))) for undefended, defended in pairs]
    before, after, lost = np.array(indices).T
    distinct = np.stack(counts.values)
    # The sums over each sample, exact; where they are small also in the faster type.
    precision = np.float32 if int(distinct.max()) * len(weights) < 2**24 else np.float64
    of_samples = (distinct.astype(precision) @ weights.astype(precision)).astype(np.float64)
    succeeded, possible = np.array(rates.values).T
    # A sample without a possible success has no rate: NaN.
    with np.errstate(invalid="ignore"):
        of_rates = 100 * of_samples[succeeded] / of_samples[possible]
    of_losses = np.stack(
        [
            # Over the common denominator, so that a loss of nothing is exactly 0.
            100 * (of_samples[clean] * draws - of_samples[defended] * own) / (own * draws * len(weights))
            for (clean, own), (defended, draws) in losses.values
        ]
    )
    loss_within_interval = np.quantile(of_losses[:, 1:], 0.025, axis=1) <= 0
    scores = of_rates[before] - of_rates[after]
    scores /= np.maximum(of_losses, LOSS_FLOOR)[lost]
    # NumPy leaves samples without a possible success out one score at a time; there are hardly ever any.
    quantile = np.nanquantile if np.isnan(scores).any() else np.quantile
    low, high = quantile(scores[:, 1:], [0.025, 0.975], axis=1)
    parts = (scores[:, 0], low, high, of_losses[lost, 0], loss_within_interval[lost])
    for score in zip(*(part.tolist() for part in parts), strict=True):
        yield DefenseEfficiency(*score)


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
