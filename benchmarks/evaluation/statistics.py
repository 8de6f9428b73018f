"""Intervals for accuracies over images and draws, and the Defense Efficiency Score."""

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
"""The smallest loss of clean accuracy, in points, by which a Defense Efficiency Score is divided."""


def mean_interval(shares: Floats, *, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of Wilson (1927) for the mean of shares that belong to images.

    The images are the sample; the draws of one image are not independent of each other. So the number of trials is the
    effective one: the number of images over the design effect (Kish, Survey Sampling, 1965), which is the variance of
    the shares over ``p (1 - p)``. It is estimated with one more image that is always right and one that never is: what
    only one image in a thousand does, a few hundred need not show. For one draw the interval is Wilson's for a binomial
    share.

    Args:
        shares: ``(N,)`` in [0, 1], N >= 1: for each image the share of its draws that were right.
        confidence: The interval's coverage.

    Returns:
        The lower and the upper end, in [0, 1].
    """
    mean = float(shares.mean())
    padded = np.concatenate([shares, [0.0, 1.0]])
    design_effect = float(padded.var() / (padded.mean() * (1 - padded.mean())))
    trials = len(shares) / design_effect
    z = float(ndtri(0.5 + confidence / 2))
    centre = (mean + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * float(np.sqrt(mean * (1 - mean) / trials + z * z / (4 * trials * trials)))
    # Where nothing, or everything, was right, the end is exact and not rounding's.
    return 0.0 if mean == 0 else max(0.0, centre - half), 1.0 if mean == 1 else min(1.0, centre + half)


def images_interval(right: NDArray[np.bool_]) -> tuple[float, float]:
    """The 95 % interval for an accuracy whose draws belong to the images; see :func:`mean_interval`.

    Args:
        right: ``(R, N)``, whether each draw was right on each image.
    """
    return mean_interval(right.mean(axis=0, dtype=np.float64))


def passes_interval(right: NDArray[np.bool_]) -> tuple[float, float]:
    """The 95 % interval for an accuracy whose draws are passes: all images of a pass share its draw.

    The images are one sample, the passes another. The means of the passes have Student's interval; each of its ends is
    joined with that of the images' interval, as the square root of the sum of the squared distances from the mean (Zou,
    Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27, 2008). One pass says
    nothing of the others: the interval is then [0, 1].

    Args:
        right: ``(R, N)``, whether each pass was right on each image.
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
    """A Defense Efficiency Score with what it is made of; points are percentage points.

    Attributes:
        score: Points of attack success prevented over points of clean accuracy lost, the loss floored.
        low: Lower end of the score's 95 % interval.
        high: Upper end.
        loss: Points of clean accuracy lost, not floored.
        loss_within_interval: Whether the loss cannot be told from none: its 95 % interval reaches down to 0.
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
        undefended_success: For each image how often the attack succeeded on the undefended model and how often it could
            have, each ``(N,)``; the success rate is the quotient of the sums.
        defended_success: The same for the defended model, on the same images.
        undefended_clean: ``(N,)`` shares of draws that classify the clean image right.
        defended_clean: The same for the defended model.
        resamples: Bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        The score; ``None`` where one of the attacks could never have succeeded.
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
