"""Confidence intervals for accuracies over images and draws, and the Defense Efficiency Score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

__all__ = [
    "LOSS_FLOOR",
    "DefenseEfficiency",
    "defense_efficiency",
    "images_interval",
    "mean_interval",
    "passes_interval",
]

Floats = NDArray[np.float64]

LOSS_FLOOR = 0.1
"""The smallest loss of clean accuracy, in points, that divides a Defense Efficiency Score."""


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
    design_effect = float(padded.var() / (padded.mean() * (1 - padded.mean())))
    trials = len(shares) / design_effect
    z = float(ndtri(0.5 + confidence / 2))
    center = (mean + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * float(np.sqrt(mean * (1 - mean) / trials + z * z / (4 * trials * trials)))
    # If nothing or everything is right, the end is exactly 0 or 1, without rounding.
    return 0.0 if mean == 0 else max(0.0, center - half), 1.0 if mean == 1 else min(1.0, center + half)


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


def defense_efficiency(
    *,
    undefended_success: tuple[Floats, Floats],
    defended_success: tuple[Floats, Floats],
    undefended_clean: Floats,
    defended_clean: Floats,
    resamples: int = 2000,
    seed: int = 0,
) -> DefenseEfficiency | None:
    """The Defense Efficiency Score (Wang et al., IJCAI 2019, abstract) with a paired bootstrap over the images.

    Args:
        undefended_success: The attack's successes on the undefended model and its possible successes, each ``(N,)``; the
            success rate is the quotient of their sums.
        defended_success: The same for the defended model, on the same images.
        undefended_clean: ``(N,)``, the share of right draws on each clean image.
        defended_clean: The same for the defended model.
        resamples: The number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        The score; ``None`` if one of the attacks has no possible success.

    >>> ones, images = np.ones(100), np.arange(100)
    >>> score = defense_efficiency(
    ...     undefended_success=(ones, ones),
    ...     defended_success=((images < 40) * 1.0, ones),
    ...     undefended_clean=ones,
    ...     defended_clean=(images < 90) * 1.0,
    ... )
    >>> score.score, score.loss, score.loss_within_interval
    (6.0, 10.0, False)
    """
    if not undefended_success[1].any() or not defended_success[1].any():
        return None
    count = len(undefended_clean)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    weights = np.vstack([np.ones(count), weights])

    def rate(success: tuple[Floats, Floats]) -> Floats:
        possible = weights @ success[1]
        return np.asarray(100 * (weights @ success[0]) / np.where(possible > 0, possible, np.nan))

    prevented = rate(undefended_success) - rate(defended_success)
    loss = 100 * (weights @ (undefended_clean - defended_clean)) / count
    scores = prevented / np.maximum(loss, LOSS_FLOOR)
    low, high = np.nanquantile(scores[1:], [0.025, 0.975])
    return DefenseEfficiency(
        score=float(scores[0]),
        low=float(low),
        high=float(high),
        loss=float(loss[0]),
        loss_within_interval=bool(np.quantile(loss[1:], 0.025) <= 0),
    )
