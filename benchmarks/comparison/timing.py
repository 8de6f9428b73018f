"""Times that can be compared: everything is run in turn, several times, and only ratios within a turn are taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

__all__ = ["Ratio", "clock", "in_turn", "ratio"]


@dataclass(frozen=True)
class Ratio:
    """How many times as long one thing took as another.

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
    """Seconds: of the processor where torch uses one thread, so that other programs do not count, else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def in_turn(runs: Mapping[str, Callable[[], object]], *, turns: int) -> dict[str, list[float]]:
    """Seconds of each run in every turn, after one turn that is not counted.

    A load that comes and goes on the machine touches all runs of a turn, and so cancels out of their ratios.
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

    Raises:
        ValueError: They were not run in the same turns.
    """
    each = [first / second for first, second in zip(longer, shorter, strict=True)]
    return Ratio(median(each), min(each), max(each))
