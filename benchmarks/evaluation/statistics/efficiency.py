"""The Defense Efficiency Score, with a paired bootstrap over the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["LOSS_FLOOR", "DefenseEfficiency", "SuccessCounts", "defense_efficiencies"]

Counts = NDArray[np.integer[Any]]

Value = TypeVar("Value")

LOSS_FLOOR = 0.1
"""The smallest loss of clean accuracy, in points, that divides a Defense Efficiency Score."""

_PAIRS_AT_ONCE = 1024
"""Scores that are computed in one matrix product: fewer take more time, and more take more memory."""


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
    """``(images, resamples)``: how often each sample has each image."""
    # Far faster than multinomial draws, which have the same distribution.
    drawn = np.random.default_rng(seed).integers(images, size=(resamples, images))
    drawn += images * np.arange(resamples)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    return weights.T.astype(precision)


def _sums(counts: Counts, most_draws: int, resamples: int, seed: int) -> NDArray[np.floating[Any]]:
    """``(M, resamples)``: the sums of ``(M, N)`` counts over each sample, exact, and so are their products with draws."""
    images = counts.shape[1]
    # Numbers of 32 bits take half the time where they hold all of these.
    precision = np.float32 if int(counts.max()) * images * most_draws < 2**24 else np.float64
    return np.asarray(counts.astype(precision) @ _resampling_weights(images, resamples, seed, precision))


def _efficiencies(
    pairs: Sequence[tuple[SuccessCounts, SuccessCounts]], resamples: int, seed: int
) -> Iterator[DefenseEfficiency]:
    """The scores of some pairs of models with the same number of images, which have possible successes."""
    # Attacks on one model have the clean images in common: what is equal is computed once.
    counts, losses = _Distinct[Counts](), _Distinct[tuple[int, int, int, int]]()
    models = {id(model): model for pair in pairs for model in pair}
    rows = {
        key: [counts.index(part.tobytes(), part) for part in (model.succeeded, model.possible, model.clean)]
        for key, model in models.items()
    }
    loss_indices = []
    for base, own in pairs:
        loss = rows[id(base)][2], base.draws, rows[id(own)][2], own.draws
        loss_indices.append(losses.index(loss, loss))
    position = {key: index for index, key in enumerate(rows)}
    before, after = ([position[id(pair[side])] for pair in pairs] for side in (0, 1))
    succeeded, possible, _ = np.array([*rows.values()]).T
    distinct = np.stack(counts.values)

    def scores(sums: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The scores and the distinct losses in some samples, from the sums of the counts."""
        rates = sums[succeeded]
        # A sample without a possible success has no rate: NaN.
        with np.errstate(invalid="ignore"):
            rates /= sums[possible]
        # Over the common denominator, so that a loss of nothing is exactly 0.
        of_losses = np.stack(
            [
                100 * (sums[right] * draws - sums[own_right] * of_base) / (of_base * draws * distinct.shape[1])
                for right, of_base, own_right, draws in losses.values
            ]
        )
        of_pairs = rates[before]
        of_pairs -= rates[after]
        of_pairs *= (100 / np.maximum(of_losses, LOSS_FLOOR))[loss_indices]
        return of_pairs, of_losses

    most_draws = max(model.draws for model in models.values())
    samples, losses_in_samples = scores(_sums(distinct, most_draws, resamples, seed))
    low, high = _quantiles(samples, 0.025, 0.975)
    loss_within_interval = _quantiles(losses_in_samples, 0.025)[0] <= 0
    (score,), (loss,) = (values.T for values in scores(distinct.sum(axis=1, keepdims=True, dtype=np.float64)))
    figures = score, low, high, loss[loss_indices], loss_within_interval[loss_indices]
    for of_pair in zip(*(values.tolist() for values in figures), strict=True):
        yield DefenseEfficiency(*of_pair)


def _quantiles(samples: NDArray[np.floating[Any]], *shares: float) -> NDArray[Any]:
    """``(len(shares), M)``: quantiles of each row of ``(M, B)`` samples; NaN samples do not count."""
    if np.isnan(samples).any():
        # This is slow, as it takes one row at a time. There are hardly ever any.
        return np.asarray(np.nanquantile(samples, shares, axis=1))
    # NumPy sorts numbers of 32 bits faster than it selects from them.
    ordered = np.sort(samples.astype(np.float32, copy=False), axis=1)
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
