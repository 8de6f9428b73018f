from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws
from robustbench_cli.benchmarks.evaluation.statistics.protocols import (
    PROTOCOLS,
    Protocol,
    all_right,
    draw_variance,
    protocols,
)


def entries(right: Any, *, shared: bool = False) -> list[Protocol]:
    votes = 2 * np.sum(right, axis=0) > len(right)
    return protocols(ScoredDraws(right=np.asarray(right, dtype=bool), shared=shared), votes)


@given(st.integers(1, 8).flatmap(lambda draws: st.tuples(st.lists(st.booleans(), min_size=draws, max_size=draws))))
def test_best_of_k_is_the_share_of_all_choices(drawn: tuple[list[bool]]) -> None:
    """Every choice of k of the draws, enumerated; and the binomial coefficients of scipy."""
    (right,) = drawn
    for k in range(1, len(right) + 1):
        choices = [all(choice) for choice in itertools.combinations(right, k)]
        (share,) = all_right(np.array([sum(right)]), len(right), k)
        assert share == pytest.approx(np.mean(choices))
        wrong = len(right) - sum(right)
        assert 1 - share == pytest.approx(1 - special.comb(len(right) - wrong, k) / special.comb(len(right), k))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_best_of_k_is_unbiased(k: int) -> None:
    """The mean over the binomial distribution of ten draws is ``q^k``, exactly."""
    chance = 0.83
    right = np.arange(11)
    assert stats.binom.pmf(right, 10, chance) @ all_right(right, 10, k) == pytest.approx(chance**k)


def test_the_ends_of_the_curve_are_other_protocols() -> None:
    """Best of one is the expected accuracy, best of all draws is every draw, and the curve falls between them."""
    right = np.random.default_rng(0).random((10, 80)) < 0.8
    found = entries(right)
    expected, one, vote, *curve, every = found
    assert [entry.name for entry in (expected, one, vote, every)] == ["expected", "one-draw", "vote", "every-draw"]
    assert [entry.k for entry in curve] == list(range(1, 11))
    assert {entry.name for entry in found} == {*PROTOCOLS}
    assert expected.accuracy == pytest.approx(right.mean())
    assert (curve[0].accuracy, curve[0].low, curve[0].high) == pytest.approx(
        (expected.accuracy, expected.low, expected.high)
    )
    assert (curve[-1].accuracy, curve[-1].low) == pytest.approx((every.accuracy, every.low))
    assert all(np.diff([entry.accuracy for entry in curve]) <= 0)
    assert one.accuracy == right[0].mean()
    wilson = stats.binomtest(int(right[0].sum()), 80).proportion_ci(method="wilson")
    assert (one.low, one.high) == pytest.approx((wilson.low, wilson.high))


@pytest.mark.parametrize("shared", [False, True])
def test_the_curves_interval_holds_the_truth(shared: bool) -> None:
    """Of 200 evaluations, no more intervals of best of three miss the truth than 5 % explains, at a level of 1e-6.

    The shares of right draws are beta-distributed; or an offset that all images of a pass share decides with each image's
    own difficulty.
    """
    rng = np.random.default_rng(1)
    difficulty, offsets = rng.standard_normal(4000), rng.standard_normal((1000, 3)) * 0.5
    if shared:
        truth = np.mean([(difficulty[:, None] + 1 + own > 0).all(axis=1).mean() for own in offsets])
    else:
        truth = 4 * 5 * 6 / (6 * 7 * 8)  # the third moment of a beta(4, 2) distribution
    missed = 0
    for _ in range(200):
        if shared:
            right = rng.choice(difficulty, 200) + 1 + 0.5 * rng.standard_normal((10, 1)) > 0
        else:
            right = rng.random((10, 200)) < rng.beta(4, 2, 200)
        third = next(entry for entry in entries(right, shared=shared) if entry.k == 3)
        missed += not third.low <= truth <= third.high
    assert missed <= stats.binom.ppf(1 - 1e-6, 200, 0.05)


def test_a_deterministic_model_has_one_accuracy() -> None:
    found = entries([[True, True, False, True]])
    assert {entry.accuracy for entry in found} == {0.75}
    assert [entry.k for entry in found if entry.name == "best-of-k"] == [1]


def test_every_draw_of_shared_passes_has_no_lower_limit() -> None:
    """All passes together are one observation: of what others would do, they tell nothing."""
    right = np.random.default_rng(2).random((5, 60)) < 0.9
    last = entries(right, shared=True)[-2]
    assert (last.name, last.k, last.low) == ("best-of-k", 5, 0.0)


@pytest.mark.parametrize(("shares", "expected"), [((0.0, 1.0), 0.0), ((0.5, 0.5), 1.0), ((0.2, 0.8), 0.64)])
def test_the_variance_of_draws_is_a_share_of_all_variance(shares: tuple[float, ...], expected: float) -> None:
    """``E q (1 - q) / p (1 - p)``, within what 200,000 draws leave of it; images alike have only their draws' variance."""
    rng = np.random.default_rng(3)
    right = rng.random((5, 40_000)) < np.resize(shares, 40_000)
    assert draw_variance(ScoredDraws(right=right)) == pytest.approx(expected, abs=0.01)
