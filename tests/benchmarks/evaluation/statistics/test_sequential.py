from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from robustbench_cli.benchmarks.evaluation.statistics.sequential import SequentialGate, confidence_sequence

RUNS = 100
MOST_ERRORS = int(stats.binom.ppf(1 - 1e-6, RUNS, 0.05))


def decided(values: np.ndarray, limit: float) -> tuple[str | None, int]:
    """The decision on a random order of the values, and the number of values before it."""
    gate = SequentialGate(limit, len(values))
    for value in values:
        if gate.update([value]):
            break
    return gate.decision, gate.seen


@pytest.mark.parametrize(("limit", "missing"), [(0.05, 1), (0.4, 1), (0.9, 1), (0.05, 0), (0.4, 0), (0.9, 0)])
def test_close_cases_are_seldom_decided_wrongly(limit: float, missing: int) -> None:
    """One image below the limit, and exactly on it: no more errors than 5 % explains, at a level of 1e-6."""
    rng = np.random.default_rng(0)
    values = (np.arange(200) < round(200 * limit) - missing) * 1.0
    truth = "missed" if missing else "reached"
    decisions = [decided(rng.permutation(values), limit)[0] for _ in range(RUNS)]
    assert decisions.count(truth) >= RUNS - MOST_ERRORS


@pytest.mark.parametrize(("accuracy", "decision"), [(0.5, "reached"), (0.3, "missed")])
@pytest.mark.parametrize("draws", [1, 10])
def test_clear_cases_take_less_than_half_of_the_images(accuracy: float, decision: str, draws: int) -> None:
    """Ten points from the limit, of 500 images, by one draw and by ten."""
    rng = np.random.default_rng(1)
    shares = (
        rng.binomial(draws, rng.beta(5 * accuracy, 5 * (1 - accuracy), 500) if draws > 1 else accuracy, 500) / draws
    )
    runs = [decided(rng.permutation(shares), 0.4) for _ in range(50)]
    assert {entry[0] for entry in runs} == {decision}
    assert np.mean([seen for _, seen in runs]) <= 250


def test_what_is_left_cannot_change_a_decision() -> None:
    """Where the sum has reached the limit, or cannot reach it any more, the gate is decided, whatever the order."""
    gate = SequentialGate(0.5, 4, level=1e-9)
    assert gate.update([1.0]) is None
    assert gate.update([1.0]) == "reached"
    gate = SequentialGate(0.5, 4, level=1e-9)
    assert gate.update([0.0, 0.0]) is None
    assert gate.update([0.0]) == "missed"
    assert gate.update([1.0]) == "missed"


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_the_limits_of_a_share(limit: float) -> None:
    """Every mean reaches 0, and one image that falls misses 1."""
    assert decided(np.array([0.0, 1.0] * 10), limit) == ("reached" if limit == 0 else "missed", 1)


def test_the_sequence_holds_the_mean_at_all_times() -> None:
    """Over 100 orders, no more intervals miss the mean at any time than 5 % explains, at a level of 1e-6."""
    rng = np.random.default_rng(2)
    values = rng.binomial(5, 0.3, 100) / 5
    missed = 0
    for _ in range(100):
        intervals = list(confidence_sequence(rng.permutation(values), 100))
        missed += any(not low - 1e-12 <= values.mean() <= high + 1e-12 for low, high in intervals)
    assert missed <= stats.binom.ppf(1 - 1e-6, 100, 0.05)
    assert intervals[-1] == pytest.approx((values.mean(), values.mean()))


def test_the_sequence_narrows_and_is_wider_than_a_single_look() -> None:
    """It may be looked at any time, so it is wider than scipy's interval for one look; and not by more than twice."""
    values = np.random.default_rng(3).permutation((np.arange(5000) < 2000) * 1.0)[:500]
    widths = [high - low for low, high in confidence_sequence(values, 5000)]
    assert all(np.diff(widths) <= 1e-12)
    single = stats.binomtest(int(values.sum()), 500).proportion_ci(method="wilson")
    assert single.high - single.low < widths[-1] < 2 * (single.high - single.low)
