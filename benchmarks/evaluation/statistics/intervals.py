"""Confidence intervals for accuracies over images and draws."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "images_interval", "mean_interval", "passes_interval"]

Floats = NDArray[np.float64]


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
