"""Comparable times: all candidates run in turn, several times, and ratios are taken within a turn."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

__all__ = ["Ratio", "clock", "in_turn", "machine", "ratio"]


@dataclass(frozen=True)
class Ratio:
    """The ratio of the times of two runs.

    Attributes:
        middle: The median over the turns.
        lowest: The smallest of any turn.
        highest: The largest.
    """

    middle: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        spread = f" ({self.lowest:.2f} to {self.highest:.2f})" if self.lowest < self.highest else ""
        return f"{self.middle:.2f}{spread}"


def clock() -> float:
    """Seconds: processor time where torch uses one thread, so that other programs do not count; else wall time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def machine() -> str:
    """A line on what the times are those of, and what :func:`clock` gives."""
    threads = torch.get_num_threads()
    timed = "1 thread, processor seconds" if threads == 1 else f"{threads} threads, wall-clock seconds"
    return f"torch {torch.__version__}, {platform.machine()}, {timed}; ratios: median (lowest to highest) of the turns"


def in_turn(
    runs: Mapping[str, Callable[[], object]], *, turns: int, clock: Callable[[], float] = clock
) -> dict[str, list[float]]:
    """The seconds of each run in every turn, after one turn that is not timed.

    A varying load of the machine affects all runs of a turn, so it cancels in their ratios.

    Args:
        runs: The functions to time, by name.
        turns: The number of timed turns.
        clock: Gives seconds; :func:`clock` by default.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-1, turns):
        for name, run in runs.items():
            started = clock()
            run()
            if turn >= 0:
                seconds[name].append(clock() - started)
    return seconds


def ratio(longer: Sequence[float], shorter: Sequence[float]) -> Ratio:
    """The ratio of the seconds of two runs, turn by turn.

    Args:
        longer: The seconds of the numerator, one for each turn.
        shorter: Those of the denominator.

    Raises:
        ValueError: The numbers of turns differ.
    """
    ratios = [first / second for first, second in zip(longer, shorter, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))
