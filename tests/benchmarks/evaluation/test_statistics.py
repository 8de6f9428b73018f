from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from robustbench_cli.benchmarks.evaluation.statistics import DefenseEfficiency, defense_efficiency, mean_interval

Floats = NDArray[np.float64]


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


def efficiency(**arrays: Any) -> DefenseEfficiency:
    """The score of a defense that there is one of."""
    score = defense_efficiency(**arrays)
    assert score is not None
    return score


def always(values: list[float]) -> tuple[Floats, Floats]:
    """How often an attack succeeded, of one time that it could have."""
    return np.array(values), np.ones(len(values))


def test_the_score_is_that_of_the_paper() -> None:
    """Points of success prevented over points of clean accuracy lost: (100 - 25) / (100 - 75)."""
    score = efficiency(
        undefended_success=always([1, 1, 1, 1]),
        defended_success=always([1, 0, 0, 0]),
        undefended_clean=np.array([1.0, 1, 1, 1]),
        defended_clean=np.array([1.0, 1, 1, 0]),
    )
    assert (score.score, score.loss) == pytest.approx((3.0, 25.0))


def test_the_success_rate_is_the_quotient_of_sums() -> None:
    """An image that could fall more often counts more: (1 + 0.5) / (1 + 0.5) against 0.5 / (0.5 + 1)."""
    score = efficiency(
        undefended_success=(np.array([1.0, 0.5]), np.array([1.0, 0.5])),
        defended_success=(np.array([0.5, 0.0]), np.array([0.5, 1.0])),
        undefended_clean=np.array([1.0, 0.5]),
        defended_clean=np.array([0.5, 0.5]),
    )
    assert score.score == pytest.approx((100 - 100 / 3) / 25)


@pytest.mark.parametrize("gained", [0.0, 0.3])
def test_no_loss_is_floored_and_marked(gained: float) -> None:
    """Where the defense costs nothing, or even helps, the loss is taken as 0.1 point and the score is marked."""
    score = efficiency(
        undefended_success=always([1, 1]),
        defended_success=always([0, 1]),
        undefended_clean=np.full(2, 0.5),
        defended_clean=np.full(2, 0.5 + gained),
    )
    assert score.score == pytest.approx(50 / 0.1)
    assert score.loss == pytest.approx(-100 * gained)
    assert score.loss_within_interval


def test_a_loss_is_marked_where_its_interval_reaches_zero() -> None:
    """3 of 200 images lost and 1 gained might be chance; 40 lost are none."""
    undefended = np.ones(200)
    undefended[0] = 0
    few, many = undefended.copy(), undefended.copy()
    few[:4] = [1, 0, 0, 0]
    many[:40] = 0
    arrays = {"undefended_success": always([1.0] * 200), "defended_success": always([0.5] * 200)}
    assert efficiency(**arrays, undefended_clean=undefended, defended_clean=few).loss_within_interval
    assert not efficiency(**arrays, undefended_clean=undefended, defended_clean=many).loss_within_interval


def test_the_interval_is_scipys_paired_bootstrap() -> None:
    """The same statistic, resampled over the images by scipy, has the same 95 % interval up to the bootstrap's own noise."""
    rng = np.random.default_rng(1)
    base_clean, own_clean = (rng.random(400) < 0.95) * 1.0, rng.binomial(10, 0.8, 400) / 10
    base_fell, own_fell = base_clean * (rng.random(400) < 0.9), own_clean * rng.binomial(10, 0.4, 400) / 10

    def statistic(fell: Floats, clean: Floats, own: Floats, own_right: Floats, axis: int) -> Floats:
        prevented = fell.sum(axis) / clean.sum(axis) - own.sum(axis) / own_right.sum(axis)
        loss = clean.mean(axis) - own_right.mean(axis)
        return np.asarray(100 * prevented / np.maximum(100 * loss, 0.1))

    expected = stats.bootstrap(
        (base_fell, base_clean, own_fell, own_clean),
        statistic,
        paired=True,
        n_resamples=8000,
        method="percentile",
        rng=2,
    )
    score = efficiency(
        undefended_success=(base_fell, base_clean),
        defended_success=(own_fell, own_clean),
        undefended_clean=base_clean,
        defended_clean=own_clean,
        resamples=8000,
    )
    assert score.low < score.score < score.high
    # The standard error of a percentile from B samples is sqrt(q (1 - q) / B) / density: 0.8 % of the width of a normal
    # distribution's interval here, and 1.1 % between two of them, which is allowed six times.
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert (score.low, score.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.07 * width)


def test_an_attack_that_could_not_succeed_gives_no_score() -> None:
    """A model without one right answer has no success rate, and so no score."""
    arrays = {"undefended_clean": np.ones(3), "defended_clean": np.zeros(3)}
    never = (np.zeros(3), np.zeros(3))
    assert defense_efficiency(undefended_success=always([1, 1, 1]), defended_success=never, **arrays) is None
    assert defense_efficiency(undefended_success=never, defended_success=always([1, 1, 1]), **arrays) is None
