"""The accuracies of a randomized model under the protocols that papers use, from the same scored draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats, images_interval, mean_interval
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws

__all__ = ["PROTOCOLS", "Meaning", "Protocol", "ProtocolName", "all_right", "draw_variance", "protocols"]

ProtocolName = Literal["expected", "one-draw", "vote", "best-of-k", "every-draw"]
"""How the draws of one image are counted; see :data:`PROTOCOLS`."""


@dataclass(frozen=True)
class Meaning:
    """What a protocol counts.

    Attributes:
        text: What it counts, for a table.
        source: Who uses it.
    """

    text: str
    source: str


PROTOCOLS: dict[ProtocolName, Meaning] = {
    "expected": Meaning(
        "one submission, fresh draws: robust_accuracy",
        "the goal of attacks with EOT (Athalye, Carlini and Wagner, ICML 2018)",
    ),
    "one-draw": Meaning(
        "a single evaluation, one draw per image",
        "AutoAttack's version rand (Croce and Hein, ICML 2020); with the draw frozen, Yuezhang and Wei (arXiv 2505.22839). An "
        "attacker who knows the draw is stronger: --eot frozen",
    ),
    "vote": Meaning(
        "majority of all draws: another, costlier model",
        "Cohen, Rosenfeld and Kolter (ICML 2019); Kassis, Hengartner and Yu (arXiv 2411.16598)",
    ),
    "best-of-k": Meaning(
        "k submissions of one image, none succeeds",
        "persistent attackers, Lucas et al. (arXiv 2302.13464); resubmission, Kassis, Hengartner and Yu (arXiv 2411.16598)",
    ),
    "every-draw": Meaning(
        "right in each draw: falls with more draws",
        "best of k with k the number of draws",
    ),
}
"""The protocols, from the mildest attacker to the most persistent."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """An accuracy under a protocol, with its 95 % confidence interval.

    Attributes:
        name: The protocol.
        k: The number of submissions; ``None`` where it does not apply.
        accuracy: The accuracy.
        low: Lower end of the interval.
        high: Upper end.
    """

    name: ProtocolName
    k: int | None
    accuracy: float
    low: float
    high: float


def protocols(scored: ScoredDraws, vote: NDArray[np.bool_]) -> list[Protocol]:
    """The accuracies under all :data:`PROTOCOLS`, with a curve over k.

    Where all images of a pass share one draw, the intervals of the expectation and of the curve count the passes as a second
    sample, and those of one draw, of the vote and of every draw hold for the draws that were made.

    Args:
        scored: ``(R, N)`` draws.
        vote: ``(N,)``, whether the majority vote over the R draws is right.

    >>> draws = np.array([[True] * 100, [True] * 80 + [False] * 20])
    >>> for entry in protocols(ScoredDraws(right=draws), draws.all(axis=0)):
    ...     print(f"{entry.name} {entry.k} {entry.accuracy:.2f} [{entry.low:.2f}, {entry.high:.2f}]")
    expected None 0.90 [0.85, 0.93]
    one-draw None 1.00 [0.96, 1.00]
    vote None 0.80 [0.71, 0.87]
    best-of-k 1 0.90 [0.85, 0.93]
    best-of-k 2 0.80 [0.71, 0.87]
    every-draw None 0.80 [0.71, 0.87]
    """
    every = np.all(scored.right, axis=0, keepdims=True)
    counted: list[tuple[ProtocolName, NDArray[np.bool_]]] = [
        ("one-draw", scored.right[:1]),
        ("vote", vote[None]),
        ("every-draw", every),
    ]
    low, high = scored.interval(0.95)
    entries = [Protocol(name="expected", k=None, accuracy=scored.accuracy, low=low, high=high)]
    for name, right in counted:
        low, high = images_interval(right)
        entries.append(Protocol(name=name, k=None, accuracy=float(right.mean()), low=low, high=high))
    entries[3:3] = _curve(scored)
    return entries


def _curve(scored: ScoredDraws) -> Iterator[Protocol]:
    """Best of k for each k that the draws allow, one to R."""
    draws = len(scored.right)
    for k in range(1, draws + 1):
        shares = all_right(scored.right.sum(axis=0), draws, k)
        accuracy = float(shares.mean())
        low, high = mean_interval(shares)
        if scored.shared:
            half = _passes_half_width(scored.right, k)
            low = max(0.0, accuracy - float(np.hypot(accuracy - low, half)))
            high = min(1.0, accuracy + float(np.hypot(high - accuracy, half)))
        yield Protocol(name="best-of-k", k=k, accuracy=accuracy, low=low, high=high)


def all_right(right: NDArray[np.integer], draws: int, k: int) -> Floats:
    """The probability that k fresh draws are all right, from R draws: unbiased for each image.

    It is the share of right ones among all choices of k of the R draws, ``C(c, k) / C(R, k)`` with c right draws (the
    estimator of pass@k in Chen et al., arXiv 2107.03374, section 2.1, for the opposite event).

    Args:
        right: ``(N,)``, c: the number of right draws of each image.
        draws: R.
        k: The number of submissions, 1 to R.

    >>> all_right(np.array([10, 9, 5, 1]), 10, 2).round(3).tolist()
    [1.0, 0.8, 0.222, 0.0]
    """
    factors = (right[:, None] - np.arange(k)).clip(0) / (draws - np.arange(k))
    return np.asarray(factors.prod(axis=1), dtype=np.float64)


def _passes_half_width(right: NDArray[np.bool_], k: int) -> float:
    """Half the width of the interval over passes of best of k, by the jackknife; infinite where it takes all passes."""
    from scipy.special import stdtrit

    passes = len(right)
    if k >= passes:
        return float("inf")
    counts = right.sum(axis=0)
    without = np.array([all_right(counts - own, passes - 1, k).mean() for own in right])
    variance = (passes - 1) / passes * float(((without - without.mean()) ** 2).sum())
    return float(stdtrit(passes - 1, 0.975) * np.sqrt(variance))


def draw_variance(scored: ScoredDraws) -> float:
    """The share of an answer's variance that comes from the draws and not from the images; see :class:`~.sample_size.ComparisonPlan`.

    The variance of a draw on a random image is ``p (1 - p)``; within an image it is ``c (R - c) / (R (R - 1))``, unbiased.

    Args:
        scored: ``(R, N)`` draws.

    Returns:
        From 0, where each image is always right or always wrong, to 1, where all images are alike; NaN for a single draw, or
        where all or no draws are right.

    >>> draw_variance(ScoredDraws(right=np.array([[True] * 9 + [False], [True] * 8 + [False] * 2]))).__round__(3)
    0.392
    """
    draws, accuracy = len(scored.right), scored.accuracy
    if draws < 2 or not 0 < accuracy < 1:
        return float("nan")
    within = float((scored.shares * (1 - scored.shares)).mean()) * draws / (draws - 1)
    return min(1.0, within / (accuracy * (1 - accuracy)))
