"""Confidence intervals for accuracies over images and draws, and the Defense Efficiency Score."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LOSS_FLOOR",
    "DefenseEfficiency",
    "SuccessCounts",
    "defense_efficiencies",
    "images_interval",
    "mean_interval",
    "passes_interval",
]

Floats = NDArray[np.float64]
Counts = NDArray[np.integer[Any]]

Value = TypeVar("Value")

LOSS_FLOOR = 0.1
"""The smallest loss of clean accuracy, in points, that divides a Defense Efficiency Score."""

_PAIRS_AT_ONCE = 64
"""Scores that are computed in one matrix product; more take more memory, and no less time."""


def mean_interval(shares: Floats, *, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of Wilson (1927) for the mean of shares, one share per image.

    The images are the sample, and the draws of one image are not independent. So the number of trials is the effective
    sample size: the number of images over the design effect (Kish, Survey Sampling, 1965), which is the variance of the
    shares over ``p (1 - p)``. Two further images, one always right and one never, stabilize the estimate of the variance,
    since a few hundred images need not show what one image in a thousand does. For one draw the interval is Wilson's for a
    binomial share.

    Args:
        shares: ``(N,)`` in [0, 1], N >= 1: the share of right draws of each image.
        confidence: The coverage of the interval.

    Returns:
        The lower and the upper end, in [0, 1].

    >>> low, high = mean_interval(np.array([1.0] * 80 + [0.0] * 20))
    >>> f"{low:.3f} {high:.3f}"
    '0.711 0.867'
    >>> mean_interval(np.zeros(50))[0]
    0.0
    """
    mean = float(shares.mean())
    padded = np.concatenate([shares, [0.0, 1.0]])
    center_of_padded = float(padded.mean())
    design_effect = float(padded.var()) / (center_of_padded * (1 - center_of_padded))
    trials = len(shares) / design_effect
    z = _normal_quantile(0.5 + confidence / 2)
    center = (mean + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(mean * (1 - mean) / trials + z * z / (4 * trials * trials))
    # If nothing or everything is right, the end is exactly 0 or 1, without rounding.
    return 0.0 if mean == 0 else max(0.0, center - half), 1.0 if mean == 1 else min(1.0, center + half)


_normal_quantile = lru_cache(maxsize=16)(NormalDist().inv_cdf)


def images_interval(right: NDArray[np.bool_]) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy if every image has its own draws; see :func:`mean_interval`.

    Args:
        right: ``(R, N)``, whether each draw is right on each image.

    Returns:
        The lower and the upper end, in [0, 1].

    >>> low, high = images_interval(np.array([[True] * 90 + [False] * 10] * 10))
    >>> f"{low:.3f} {high:.3f}"
    '0.826 0.945'
    """
    return mean_interval(right.mean(axis=0, dtype=np.float64))


def passes_interval(right: NDArray[np.bool_]) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy if all images of a pass share one draw.

    The images are one sample, the passes another. The means of the passes have Student's interval. Each of its ends is
    combined with that of the images' interval: the distance from the mean is the square root of the sum of both squared
    distances (Zou, Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27, 2008). A
    single pass has no variance, so the interval is [0, 1].

    Args:
        right: ``(R, N)``, whether each pass is right on each image.

    Returns:
        The lower and the upper end, in [0, 1].

    >>> passes_interval(np.array([[True, False]]))
    (0.0, 1.0)
    >>> shared = np.array([[True] * 100, [True] * 80 + [False] * 20] * 5)
    >>> low, high = passes_interval(shared)
    >>> f"{low:.3f} {high:.3f}"
    '0.810 0.983'
    """
    # Few tables need it, and its import takes as long as a short report.
    from scipy.special import stdtrit

    passes = right.mean(axis=1, dtype=np.float64)
    mean, number = float(passes.mean()), len(passes)
    if number < 2:
        return 0.0, 1.0
    half = float(stdtrit(number - 1, 0.975) * passes.std(ddof=1) / np.sqrt(number))
    low, high = images_interval(right)
    return max(0.0, mean - float(np.hypot(mean - low, half))), min(1.0, mean + float(np.hypot(high - mean, half)))


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
