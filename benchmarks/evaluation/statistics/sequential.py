"""Decides early whether an accuracy is above a limit, with an error that holds at any stopping time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats

__all__ = ["GateDecision", "SequentialGate", "confidence_sequence"]

GateDecision = Literal["reached", "missed"]
"""Whether the mean of all images is at least the limit, or below it."""

_LARGEST_BET = 0.75
"""The largest share of the capital that one image may cost."""

_GRID = 1000
"""The number of steps from 0 to 1 in which a confidence sequence is computed."""


class SequentialGate:
    """Decides whether the mean of N values in [0, 1] reaches a limit, as they come in random order without replacement.

    Two bettors start with a capital of 1. One bets at each image that the mean is at least the limit, the other that it is
    below. Neither can win on average where it is wrong, so its capital reaches ``1 / level`` with a probability of at most
    ``level``, whenever one looks (Ville 1939; Waudby-Smith and Ramdas, Estimating means of bounded random variables by
    betting, JRSS B 2024, section 5, for sampling without replacement). The bets follow the approximate growth-rate adaptive
    rule of that paper (appendix B). The gate is also decided once the values that are left cannot change it.

    Args:
        limit: The limit, in [0, 1].
        number: N, the number of all values.
        level: The largest probability of a wrong decision.

    >>> gate = SequentialGate(0.4, 1000)
    >>> gate.update([1.0, 0.0] * 10), gate.seen
    (None, 20)
    >>> gate.update([1.0] * 15), gate.seen
    ('reached', 35)
    """

    def __init__(self, limit: float, number: int, *, level: float = 0.05) -> None:
        self._bets = _Bets(np.array([limit]), number)
        self._threshold = math.log(1 / level)
        self._decision: GateDecision | None = None

    @property
    def seen(self) -> int:
        """The number of values so far."""
        return self._bets.seen

    @property
    def decision(self) -> GateDecision | None:
        """The decision, which stays as it is once it is made; ``None`` before."""
        return self._decision

    def update(self, values: Iterable[float]) -> GateDecision | None:
        """Takes the next values.

        Args:
            values: In [0, 1], in the random order that was fixed before.

        Returns:
            The decision so far.
        """
        for value in values:
            above, below = self._bets.after(value)
            if self._decision is None and above[0] >= self._threshold:
                self._decision = "reached"
            elif self._decision is None and below[0] >= self._threshold:
                self._decision = "missed"
        return self._decision


def confidence_sequence(values: Floats, number: int, *, level: float = 0.05) -> Iterator[tuple[float, float]]:
    """The interval of the mean of N values in [0, 1] after each of the first values, in random order without replacement.

    The mean is in all intervals at once with a probability of at least ``1 - level``, so one may stop at any time. A mean is
    in the interval as long as neither bettor of :class:`SequentialGate`, each at half the level, has won against it.

    Args:
        values: ``(n,)``, n <= N, in random order.
        number: N.
        level: The largest probability that an interval misses the mean.

    Yields:
        The lower and the upper end, in steps of 0.001, rounded outwards.

    >>> for low, high in confidence_sequence(np.array([1.0, 0.0] * 100), 1000):
    ...     pass
    >>> f"{low:.3f} {high:.3f}"
    '0.394 0.608'
    """
    grid = np.linspace(0, 1, _GRID + 1)
    bets = _Bets(grid, number)
    possible = np.ones(len(grid), dtype=np.bool_)
    threshold = math.log(2 / level)
    low, high = 0.0, 1.0
    for value in values:
        above, below = bets.after(float(value))
        possible &= (above < threshold) & (below < threshold)
        # The mean may lie between two points of the grid.
        inside = np.flatnonzero(possible)
        if len(inside):
            low, high = max(low, grid[max(0, inside[0] - 1)]), min(high, grid[min(_GRID, inside[-1] + 1)])
        least, most = bets.range_of_mean
        low, high = min(max(low, least), most), max(min(high, most), least)
        yield float(low), float(high)


class _Bets:
    """The logarithms of the capitals of the two bettors, for each of several limits.

    Args:
        limits: ``(M,)``, in [0, 1].
        number: N, the number of all values.

    Attributes:
        seen: The number of values so far.
    """

    def __init__(self, limits: Floats, number: int) -> None:
        self.seen = 0
        self._limits = limits
        self._number = number
        self._above, self._below = np.zeros_like(limits), np.zeros_like(limits)
        self._sum = 0.0
        # A prior of one value of 1/2, whose variance is 1/4.
        self._mean, self._squares = 0.5, 0.25

    @property
    def range_of_mean(self) -> tuple[float, float]:
        """The mean of all values, if all that are left are 0, and if all are 1."""
        return self._sum / self._number, (self._sum + self._number - self.seen) / self._number

    def after(self, value: float) -> tuple[Floats, Floats]:
        """The logarithms of the capitals after one more value: of betting above the limits, and of betting below."""
        # The mean of the values that are left, if the mean of all is the limit.
        left = (self._number * self._limits - self._sum) / (self._number - self.seen)
        variance = self._squares / (self.seen + 1)
        gain = (self._mean - left) / (variance + (self._mean - left) ** 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            up = np.clip(gain, 0, _LARGEST_BET / left)
            down = np.clip(-gain, 0, _LARGEST_BET / (1 - left))
            self._above += np.log1p(up * (value - left))
            self._below += np.log1p(down * (left - value))
        self.seen += 1
        self._sum += value
        mean = (0.5 + self._sum) / (self.seen + 1)
        self._squares += (value - mean) * (value - self._mean)
        self._mean = mean
        rounding = 1e-9 * self._number
        total = self._number * self._limits
        self._above[self._sum >= total - rounding] = np.inf
        self._below[self._sum + self._number - self.seen < total - rounding] = np.inf
        return self._above, self._below
