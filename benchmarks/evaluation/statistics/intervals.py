"""Confidence intervals for accuracies over images and draws."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "images_interval", "mean_interval", "passes_interval", "score_interval"]

Floats = NDArray[np.float64]


_EXTREME_IMAGES = 0.2
"""The weight of each of the two images, one always right and one never, that :func:`mean_interval` adds to a variance."""


def mean_interval(shares: Floats, *, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of Wilson (1927) for the mean of shares, one share per image.

    The images are the sample, and the draws of one image are not independent. So the number of trials is the effective
    sample size: the number of images over the design effect (Kish, Survey Sampling, 1965), which is the variance of the
    shares over ``p (1 - p)``. Two further images, one always right and one never, stabilize the estimate of the variance,
    since a hundred images need not show what one image in fifty does. They weigh a fifth of an image each: with more, the
    intervals of small shares are too wide, and with less, those of models that fail on a few images only are too narrow. For
    one draw the interval is Wilson's for a binomial share.

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
    number = len(shares) + 2 * _EXTREME_IMAGES
    center = (float(shares.sum()) + _EXTREME_IMAGES) / number
    variance = (
        float((shares - center) @ (shares - center)) + _EXTREME_IMAGES * (center**2 + (1 - center) ** 2)
    ) / number
    design_effect = variance / (center * (1 - center))
    return score_interval(mean, len(shares) / design_effect, _normal_quantile(0.5 + confidence / 2))


_normal_quantile = lru_cache(maxsize=16)(NormalDist().inv_cdf)


def score_interval(mean: float, trials: float, quantile: float) -> tuple[float, float]:
    """The interval of Wilson (1927): the shares from which the mean is up to ``quantile`` standard errors away.

    Args:
        mean: The share of successes, in [0, 1].
        trials: The number of trials, greater than 0; the effective one need not be whole.
        quantile: The quantile of the normal distribution, such as 1.96 for a coverage of 95 %.

    Returns:
        The lower and the upper end, in [0, 1].
    """
    squared = quantile * quantile / trials
    center = (mean + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (mean * (1 - mean) + squared / 4)) / (1 + squared)
    # If nothing or everything is right, the end is exactly 0 or 1, without rounding.
    return 0.0 if mean == 0 else max(0.0, center - half), 1.0 if mean == 1 else min(1.0, center + half)


def images_interval(right: NDArray[np.bool_], *, confidence: float = 0.95) -> tuple[float, float]:
    """The confidence interval of an accuracy if every image has its own draws; see :func:`mean_interval`.

    Args:
        right: ``(R, N)``, whether each draw is right on each image.
        confidence: The coverage of the interval.

    Returns:
        The lower and the upper end, in [0, 1].

    >>> low, high = images_interval(np.array([[True] * 90 + [False] * 10] * 10))
    >>> f"{low:.3f} {high:.3f}"
    '0.826 0.945'
    """
    return mean_interval(right.mean(axis=0, dtype=np.float64), confidence=confidence)


def passes_interval(right: NDArray[np.bool_], *, confidence: float = 0.95) -> tuple[float, float]:
    """The confidence interval of an accuracy if all images of a pass share one draw.

    The images are one sample, the passes another. The mean over the passes has a score interval too, with the variance of
    the passes' means and the quantile of Student's distribution. Each of its ends is combined with that of the images'
    interval: the distance from the mean is the square root of the sum of both squared distances (Zou, Donner,
    Construction of confidence limits about effect measures, Statistics in Medicine 27, 2008). A single pass has no
    variance, so the interval is [0, 1].

    A few passes do not show what one pass in fifty does: where rare passes fail on most images, the interval is too narrow.

    Args:
        right: ``(R, N)``, whether each pass is right on each image.
        confidence: The coverage of the interval.

    Returns:
        The lower and the upper end, in [0, 1].

    >>> passes_interval(np.array([[True, False]]))
    (0.0, 1.0)
    >>> shared = np.array([[True] * 100, [True] * 80 + [False] * 20] * 5)
    >>> low, high = passes_interval(shared)
    >>> f"{low:.3f} {high:.3f}"
    '0.789 0.963'
    """
    # Few tables need it, and its import takes as long as a short report.
    from scipy.special import stdtrit

    passes = right.mean(axis=1, dtype=np.float64)
    mean, number = float(passes.mean()), len(passes)
    if number < 2:
        return 0.0, 1.0
    low, high = images_interval(right, confidence=confidence)
    variance = float(passes.var(ddof=1)) / number
    if variance == 0 or not 0 < mean < 1:
        return low, high
    of_passes = score_interval(mean, mean * (1 - mean) / variance, float(stdtrit(number - 1, 0.5 + confidence / 2)))
    below, above = math.hypot(mean - low, mean - of_passes[0]), math.hypot(high - mean, of_passes[1] - mean)
    return max(0.0, mean - below), min(1.0, mean + above)
