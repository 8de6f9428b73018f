"""Compares two models on the same images: exact tests, the interval of the difference, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats, mean_interval, passes_interval

__all__ = [
    "PairedComparison",
    "PairedTest",
    "ScoredDraws",
    "compare_paired",
    "difference_interval",
    "holm",
    "p_value_of_a_lead",
    "p_value_of_equality",
    "sign_flip_test",
]

PairedTest = Literal["mcnemar", "sign-flip", "two-level", "none"]
"""The test behind a p-value: see :func:`compare_paired`; ``"none"`` where a single shared draw allows no test."""

_MOST_LEVELS = 256
"""The most levels into which the difference of two shares is divided; it is rounded where the numbers of draws need more."""

_LEAST_P_VALUE = 1e-12
"""The rounding of a distribution that a Fourier transform gives; smaller p-values are reported as this."""


@dataclass(frozen=True, kw_only=True)
class ScoredDraws:
    """Whether a model is right, for each draw and image.

    Attributes:
        right: ``(R, N)``, R = 1 for a deterministic model.
        shared: Whether all images of a pass share one draw.
    """

    right: NDArray[np.bool_]
    shared: bool = False

    @cached_property
    def shares(self) -> Floats:
        """``(N,)``: the share of right draws of each image."""
        # The mean of a single draw takes several times as long as a copy.
        return np.asarray(self.right[0] if len(self.right) == 1 else self.right.mean(axis=0), dtype=np.float64)

    @cached_property
    def accuracy(self) -> float:
        """The mean of the shares."""
        return float(self.shares.mean())

    @property
    def is_single_pass(self) -> bool:
        """Whether nothing tells how much a shared draw matters."""
        return self.shared and len(self.right) < 2

    def interval(self, confidence: float) -> tuple[float, float]:
        """The confidence interval of the accuracy, over images and draws."""
        return passes_interval(self.right, confidence=confidence) if self.shared else self.images_interval(confidence)

    def images_interval(self, confidence: float) -> tuple[float, float]:
        """The confidence interval of the accuracy if every image had its own draws."""
        return mean_interval(self.shares, confidence=confidence)


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """The difference between two accuracies on the same images.

    Attributes:
        difference: The first accuracy minus the second.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
        p_value: Of the two-sided test that both accuracies are equal.
        test: The test.
        first_only: The number of images that only the first model gets right; of randomized models, the sum of the shares of
            draws by which the first is ahead.
        second_only: The same for the second.
    """

    difference: float
    low: float
    high: float
    p_value: float
    test: PairedTest
    first_only: float
    second_only: float


def compare_paired(first: ScoredDraws, second: ScoredDraws) -> PairedComparison:
    """Tests whether two models have the same accuracy on the population of images and draws.

    Two deterministic models: the exact test of McNemar (Psychometrika 12, 1947), a sign test on the images on which they
    differ. If one is randomized, the p-value is the larger of two: that of the exact :func:`sign_flip_test` on the images'
    differences, whose variance holds that of the draws, and one minus the confidence at which the interval of the difference
    reaches 0. The first is exact where the differences are symmetric; the second counts the shared draws, if all images of
    a pass share one, and holds the level where few images differ much and many differ little.

    The interval combines both models' intervals with the correlation of their images (Newcombe, Statistics in Medicine 17,
    1998, method 10 without its correction of the correlation; Zou and Donner, Statistics in Medicine 27, 2008, for other
    intervals than Wilson's).

    Args:
        first: The first model.
        second: The second model, on the same N images.

    >>> robust = ScoredDraws(right=np.array([[True] * 60 + [False] * 40]))
    >>> weak = ScoredDraws(right=np.array([[True] * 45 + [False] * 55]))
    >>> compared = compare_paired(robust, weak)
    >>> compared.test, f"{compared.difference:.2f} [{compared.low:.2f}, {compared.high:.2f}] p {compared.p_value:.1e}"
    ('mcnemar', '0.15 [0.08, 0.22] p 6.1e-05')
    """
    ahead = first.shares - second.shares
    low, high = difference_interval(first, second)
    p_value, test = p_value_of_equality(first, second)
    return PairedComparison(
        difference=first.accuracy - second.accuracy,
        low=low,
        high=high,
        p_value=p_value,
        test=test,
        first_only=float(ahead.clip(0).sum()),
        second_only=float((-ahead).clip(0).sum()),
    )


def p_value_of_a_lead(first: ScoredDraws, second: ScoredDraws, *, level: float = 1.0) -> float:
    """The p-value of :func:`compare_paired` where the first accuracy is the higher one, and 1 elsewhere, which takes no test.

    Args:
        first: The first model.
        second: The second model, on the same N images.
        level: As for :func:`p_value_of_equality`.
    """
    return p_value_of_equality(first, second, level=level)[0] if first.accuracy > second.accuracy else 1.0


def p_value_of_equality(first: ScoredDraws, second: ScoredDraws, *, level: float = 1.0) -> tuple[float, PairedTest]:
    """The p-value of two models' equality, and its test; see :func:`compare_paired`, which has the interval too.

    Args:
        first: The first model.
        second: The second model, on the same N images.
        level: A p-value that is not below this may be given as 1, which takes a fraction of the time.
    """
    if first.is_single_pass or second.is_single_pass:
        return 1.0, "none"
    levels = math.lcm(len(first.right), len(second.right))
    test: PairedTest = "mcnemar" if levels == 1 else "two-level" if first.shared or second.shared else "sign-flip"
    if np.array_equal(first.right, second.right):
        return 1.0, test
    if levels == 1:
        wins = int((first.right & ~second.right).sum())
        losses = int((second.right & ~first.right).sum())
        return _sign_test(wins, losses), test
    if level < 1 and _holds_zero(first, second, level):
        return 1.0, test
    levels = min(levels, _MOST_LEVELS)
    of_images = sign_flip_test(np.rint(levels * (first.shares - second.shares)).astype(np.int64))
    return _interval_p_value(first, second, of_images), test


def _sign_test(wins: int, losses: int) -> float:
    """The p-value of the exact two-sided sign test: twice the binomial probability of at most the smaller of both counts."""
    # With integers, since importing scipy.special takes longer than a short report.
    term = total = 1
    for number in range(min(wins, losses)):
        term = term * (wins + losses - number) // (number + 1)
        total += term
    return min(1.0, 2 * total / (1 << (wins + losses)))


def _holds_zero(first: ScoredDraws, second: ScoredDraws, p_value: float) -> bool:
    """Whether the interval of the difference at the confidence of one minus a p-value contains 0."""
    low, high = difference_interval(first, second, confidence=1 - p_value)
    return low <= 0 <= high


def _interval_p_value(first: ScoredDraws, second: ScoredDraws, least: float) -> float:
    """One minus the confidence at which the interval of the difference reaches 0, or ``least`` if that is larger."""
    if not _holds_zero(first, second, least):
        return least
    below, above = math.log(least), 0.0
    while above - below > 1e-3:
        middle = (below + above) / 2
        below, above = (middle, above) if _holds_zero(first, second, math.exp(middle)) else (below, middle)
    return math.exp(above)


def sign_flip_test(differences: NDArray[np.int64]) -> float:
    """The exact two-sided sign-flip test (Fisher, The Design of Experiments, 1935, section 21) that a mean difference is 0.

    Among all ways to give the differences signs, the p-value is the share of those whose sum is as far from 0 as theirs. For
    differences of 1 and -1 it is the test of McNemar. The sum is equivalent to Student's t here, since no sign changes
    the sum of squares; so the level holds for many images also where the differences are not symmetric (Janssen, Statistics &
    Probability Letters 36, 1997). The distribution of the sum is the inverse Fourier transform of the product of the
    cosines of all differences.

    Args:
        differences: ``(N,)``, in any unit of which they are whole multiples.

    >>> f"{sign_flip_test(np.array([3, 2, 2, 1])):.4f}"  # 2 of 16 signs
    '0.1250'
    """
    magnitudes = np.abs(differences[differences != 0])
    if not len(magnitudes):
        return 1.0
    sizes, counts = np.unique(magnitudes // np.gcd.reduce(magnitudes), return_counts=True)
    farthest = int(sizes @ counts)
    observed = abs(int(differences.sum())) // int(np.gcd.reduce(magnitudes))
    if observed == 0:
        return 1.0
    points = 2 ** (2 * farthest + 1).bit_length()
    angles = 2 * np.pi / points * np.arange(points // 2 + 1)
    characteristic = np.ones_like(angles)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        characteristic *= np.cos(size * angles) ** count
    tail = float(np.fft.irfft(characteristic, points)[observed : farthest + 1].sum())
    return min(1.0, max(_LEAST_P_VALUE, 2 * tail))


def difference_interval(first: ScoredDraws, second: ScoredDraws, *, confidence: float = 0.95) -> tuple[float, float]:
    """The confidence interval of the difference of two accuracies; see :func:`compare_paired`, which has the test too.

    Args:
        first: The first model.
        second: The second model, on the same N images.
        confidence: The coverage.
    """
    models = first, second
    correlation = _correlation(first.shares, second.shares)
    ends = [np.subtract(model.interval(confidence), model.accuracy) for model in models]
    # Only the images are common to both models.
    common = [
        np.subtract(model.images_interval(confidence), model.accuracy) if model.shared else end
        for model, end in zip(models, ends, strict=True)
    ]

    def distance(side: int) -> float:
        """From the difference to its lower or upper end: one model is at that end, the other at its opposite."""
        squares = ends[0][side] ** 2 + ends[1][1 - side] ** 2
        return math.sqrt(max(0.0, squares + 2 * correlation * common[0][side] * common[1][1 - side]))

    difference = first.accuracy - second.accuracy
    return max(-1.0, difference - distance(0)), min(1.0, difference + distance(1))


def _correlation(first: Floats, second: Floats) -> float:
    """The correlation of two variables; 0 where one of them is constant."""
    first, second = first - first.mean(), second - second.mean()
    scale = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / scale if scale else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for several tests (Holm, Scandinavian Journal of Statistics 6, 1979).

    A pair whose adjusted p-value is below 5 % differs; the chance that any of these findings is false is below 5 %.

    Args:
        p_values: Of all tests.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted
