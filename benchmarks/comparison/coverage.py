"""Simulated evaluations: how often intervals contain the true accuracy, and how often tests and gates err."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws, compare_paired
from robustbench_cli.benchmarks.evaluation.statistics.sequential import SequentialGate

__all__ = ["ACCURACIES", "KINDS", "Kind", "compare_coverage", "coverage", "false_alarms", "gate_errors"]

ACCURACIES = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)
"""The true accuracies."""

DRAWS = 10
"""The draws of a randomized model."""

PAIRED = (0.1, 0.5, 0.9)
"""The accuracies at which equal models are compared."""

GATES = ((0.05, 1), (0.4, 1), (0.9, 1), (0.05, 0), (0.4, 0), (0.9, 0), (0.4, 50), (0.4, -50))
"""Limits of gates, and by how many of 500 images the accuracy is below them; the first ones are as close as can be."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Kind:
    """A kind of model to simulate.

    Attributes:
        name: What the model is like.
        draw: Given random numbers, an accuracy and a number of images, the right draws ``(R, N)`` of two models with this
            accuracy on the same images.
        shared: Whether all images of a pass share one draw.
    """

    name: str
    draw: Callable[[np.random.Generator, float, int], tuple[Bools, Bools]]
    shared: bool = False

    def scored(self, rng: np.random.Generator, accuracy: float, images: int) -> tuple[ScoredDraws, ScoredDraws]:
        """Two evaluated models with this accuracy, on the same images."""
        first, second = self.draw(rng, accuracy, images)
        return ScoredDraws(right=first, shared=self.shared), ScoredDraws(right=second, shared=self.shared)


def _beta(spread: float, draws: int) -> Callable[[np.random.Generator, float, int], tuple[Bools, Bools]]:
    """Models whose images have beta-distributed shares of right draws; the smaller ``spread``, the nearer to 0 or 1."""

    def draw(rng: np.random.Generator, accuracy: float, images: int) -> tuple[Bools, Bools]:
        shares = rng.beta(accuracy * spread, (1 - accuracy) * spread, images)
        first, second = rng.random((2, draws, images)) < shares
        return first, second

    return draw


def _passes(rng: np.random.Generator, accuracy: float, images: int) -> tuple[Bools, Bools]:
    """Models whose images of a pass share an offset, beside each image's difficulty and own noise, all normal."""
    passes, noise = 0.3, 0.5
    center = NormalDist().inv_cdf(accuracy) * math.sqrt(1 + passes**2 + noise**2)
    difficulty = center + rng.standard_normal(images)
    first, second = (
        difficulty + passes * rng.standard_normal((DRAWS, 1)) + noise * rng.standard_normal((DRAWS, images)) > 0
        for _ in range(2)
    )
    return first, second


def _mixed(rng: np.random.Generator, accuracy: float, images: int) -> tuple[Bools, Bools]:
    """A deterministic model, and a randomized one all of whose images are alike: differences that are not symmetric."""
    return rng.random((1, images)) < accuracy, rng.random((DRAWS, images)) < accuracy


KINDS = (
    Kind("deterministic", _beta(1.0, 1)),
    Kind("randomized, images alike", _beta(5.0, DRAWS)),
    Kind("randomized, images spread", _beta(1.0, DRAWS)),
    Kind("randomized, images right or wrong", _beta(0.1, DRAWS)),
    Kind("randomized, images share draws", _passes, shared=True),
)
"""The models of the tables."""

_PAIRS = (*KINDS, Kind("deterministic and randomized", _mixed))


def coverage(kind: Kind, accuracy: float, *, images: int, simulations: int) -> float:
    """The share of simulated evaluations whose 95 % interval contains the true accuracy.

    Args:
        kind: The model.
        accuracy: Its true accuracy, over all images and draws.
        images: The number of images.
        simulations: The number of evaluations.
    """
    rng = np.random.default_rng(round(1000 * accuracy))
    held = 0
    for _ in range(simulations):
        low, high = kind.scored(rng, accuracy, images)[0].interval(0.95)
        held += low <= accuracy <= high
    return held / simulations


def false_alarms(kind: Kind, accuracy: float, *, images: int, simulations: int) -> float:
    """The share of simulated comparisons of equal accuracies whose p-value is at most 5 %.

    Args:
        kind: The models.
        accuracy: Their accuracy.
        images: The number of images.
        simulations: The number of comparisons.
    """
    rng = np.random.default_rng(round(1000 * accuracy))
    return float(
        np.mean([compare_paired(*kind.scored(rng, accuracy, images)).p_value <= 0.05 for _ in range(simulations)])
    )


def gate_errors(limit: float, below: int, *, images: int, simulations: int) -> tuple[float, float]:
    """How often a gate is decided wrongly, and the share of the images that it takes.

    Args:
        limit: The limit.
        below: By how many images the accuracy is below the limit.
        images: The number of images.
        simulations: The number of random orders.
    """
    rng = np.random.default_rng(round(1000 * limit))
    right = (np.arange(images) < round(images * limit) - below) * 1.0
    truth = "missed" if below > 0 else "reached"
    wrong, seen = 0, 0
    for _ in range(simulations):
        gate = SequentialGate(limit, images)
        for value in rng.permutation(right):
            if gate.update([value]) is not None:
                break
        wrong += gate.decision != truth
        seen += gate.seen
    return wrong / simulations, seen / (simulations * images)


def compare_coverage(*, images: int, simulations: int) -> None:
    """Prints the coverage of intervals, the false alarms of paired tests and the errors of sequential gates.

    Args:
        images: The number of images of an evaluation.
        simulations: The number of simulated evaluations for each figure.
    """
    print(f"{simulations} simulated evaluations of {images} images, {DRAWS} draws of randomized models")
    options: dict[str, Any] = {"images": images, "simulations": simulations}
    rows = _percents(KINDS, ACCURACIES, lambda kind, accuracy: coverage(kind, accuracy, **options))
    print(f"\nintervals that hold the accuracy, of 95 %\n\n{_table(ACCURACIES, rows)}", flush=True)
    rows = _percents(_PAIRS, PAIRED, lambda kind, accuracy: false_alarms(kind, accuracy, **options))
    print(f"\nfalse alarms of the paired test, of 5 %\n\n{_table(PAIRED, rows)}", flush=True)
    lines = []
    for limit, below in GATES:
        wrong, seen = gate_errors(limit, below, **options)
        lines.append((f"{limit:g}", f"{limit - below / images:g}", f"{100 * wrong:.1f} %", f"{100 * seen:.0f} %"))
    print(f"\ngates decided early, of 5 %\n\n{markdown(('limit', 'accuracy', 'wrong', 'images'), lines)}")


def _percents(
    kinds: Sequence[Kind], accuracies: Sequence[float], measure: Callable[[Kind, float], float]
) -> Iterator[tuple[str, ...]]:
    for kind in kinds:
        yield kind.name, *(f"{100 * measure(kind, accuracy):.1f}" for accuracy in accuracies)


def _table(accuracies: Sequence[float], rows: Iterator[tuple[str, ...]]) -> str:
    return markdown(("percent, at an accuracy of", *(f"{accuracy:g}" for accuracy in accuracies)), list(rows))
