from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robustbench_cli.benchmarks.evaluation.statistics.intervals import mean_interval


@given(st.integers(1, 400), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_one_draw_gives_wilsons_interval(count: int, data: st.DataObject, confidence: float) -> None:
    """Where each image has one draw, the interval is the score interval of scipy."""
    right = data.draw(st.integers(0, count))
    shares = np.repeat([1.0, 0.0], [right, count - right])
    expected = stats.binomtest(right, count).proportion_ci(confidence, method="wilson")
    assert mean_interval(shares, confidence=confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=200))
def test_the_interval_holds_the_mean_and_more_draws_do_not_widen_it(tenths: list[int]) -> None:
    """It lies in [0, 1] around the mean, and is no wider than if every image had had one draw."""
    shares = np.array(tenths) / 10
    low, high = mean_interval(shares)
    assert 0 <= low <= shares.mean() <= high <= 1
    one_draw = stats.binomtest(round(shares.sum()), len(shares))
    if shares.sum() == round(shares.sum()):
        widest = one_draw.proportion_ci(method="wilson")
        assert high - low <= widest.high - widest.low + 1e-12


def test_the_ends_are_exact_where_all_or_nothing_is_right() -> None:
    """0 and 1 are not missed by rounding."""
    assert mean_interval(np.zeros(500))[0] == 0
    assert mean_interval(np.ones(500))[1] == 1


POPULATIONS = {
    "all images alike": lambda rng, n: np.full(n, 0.5),
    "few draws fail": lambda rng, n: rng.beta(5, 1, n),
    "images right or wrong": lambda rng, n: (rng.random(n) < 0.3) * 1.0,
    "rare failures": lambda rng, n: np.where(rng.random(n) < 0.02, 0.1, 0.99),
    "spread": lambda rng, n: rng.beta(0.3, 0.3, n),
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_interval_covers_what_it_says(name: str) -> None:
    """Of 2,000 experiments with new images and new draws, no more miss the truth than 5 % explains, at a level of 1e-6."""
    rng = np.random.default_rng(0)
    population = POPULATIONS[name]
    truth = population(rng, 1_000_000).mean()
    experiments, images, draws = 2000, 300, 10
    intervals = np.array(
        [mean_interval(rng.binomial(draws, population(rng, images)) / draws) for _ in range(experiments)]
    )
    missed = int(((intervals[:, 0] > truth) | (intervals[:, 1] < truth)).sum())
    assert missed <= stats.binom.ppf(1 - 1e-6, experiments, 0.05)
    means = [(rng.binomial(draws, population(rng, images)) / draws).mean() for _ in range(experiments)]
    assert np.median(np.diff(intervals)) <= 1.25 * 2 * 1.96 * np.std(means)
