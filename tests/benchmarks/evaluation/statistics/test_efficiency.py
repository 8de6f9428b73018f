from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from robustbench_cli.benchmarks.evaluation.statistics.efficiency import (
    DefenseEfficiency,
    SuccessCounts,
    defense_efficiencies,
)

Floats = NDArray[np.float64]


def efficiency(undefended: SuccessCounts, defended: SuccessCounts, **options: Any) -> DefenseEfficiency:
    """The score of a defense that has one."""
    (score,) = defense_efficiencies([(undefended, defended)], **options)
    assert score is not None
    return score


def counts(succeeded: Any, clean: Any = None, *, possible: Any = None, draws: int = 1) -> SuccessCounts:
    """The counts of an attack; by default every image is right in all draws, and could fall once."""
    succeeded = np.asarray(succeeded)
    ones = np.ones_like(succeeded)
    return SuccessCounts(
        succeeded=succeeded,
        possible=ones if possible is None else np.asarray(possible),
        clean=ones * draws if clean is None else np.asarray(clean),
        draws=draws,
    )


def test_the_score_is_that_of_the_paper() -> None:
    """Points of success prevented over points of clean accuracy lost: (100 - 25) / (100 - 75)."""
    score = efficiency(counts([1, 1, 1, 1]), counts([1, 0, 0, 0], [1, 1, 1, 0]))
    assert (score.score, score.loss) == pytest.approx((3.0, 25.0))


def test_the_success_rate_is_the_quotient_of_sums() -> None:
    """An image that could fall more often counts more: (2 + 1) / (2 + 1) against 1 / (1 + 2)."""
    undefended = counts([2, 1], [2, 1], possible=[2, 1], draws=2)
    defended = counts([1, 0], [1, 1], possible=[1, 2], draws=2)
    assert efficiency(undefended, defended).score == pytest.approx((100 - 100 / 3) / 25)


def test_models_with_different_numbers_of_draws_are_compared_by_shares() -> None:
    """One draw that is right, against three of four: a quarter of the clean accuracy is lost."""
    score = efficiency(counts([1, 1]), counts([0, 0], [3, 3], possible=[3, 3], draws=4))
    assert (score.score, score.loss) == pytest.approx((4.0, 25.0))


@pytest.mark.parametrize("gained", [0, 3])
def test_no_loss_is_floored_and_marked(gained: int) -> None:
    """Where the defense costs nothing, or even helps, the loss is taken as 0.1 point and the score is marked."""
    score = efficiency(counts([1, 1], [5, 5], draws=10), counts([0, 1], [5 + gained, 5 + gained], draws=10))
    assert score.score == pytest.approx(50 / 0.1)
    assert score.loss == pytest.approx(-10 * gained)
    assert score.loss_within_interval


def test_a_loss_is_marked_where_its_interval_reaches_zero() -> None:
    """3 of 200 images lost and 1 gained might be chance; 40 lost are none."""
    undefended = np.ones(200, dtype=np.int64)
    undefended[0] = 0
    few, many = undefended.copy(), undefended.copy()
    few[:4] = [1, 0, 0, 0]
    many[:40] = 0
    base, fell = counts(np.ones(200, dtype=np.int64), undefended), [1, 0] * 100
    assert efficiency(base, counts(fell, few)).loss_within_interval
    assert not efficiency(base, counts(fell, many)).loss_within_interval


def test_equal_shares_of_different_numbers_of_draws_are_no_loss() -> None:
    """Three tenths are no binary fraction: a rounded difference would be a loss, or none, by chance."""
    base, own = counts([1, 1, 1], [1, 1, 1], draws=3), counts([0, 0, 0], [10, 10, 10], draws=30)
    score = efficiency(base, own)
    assert (score.loss, score.loss_within_interval) == (0.0, True)


def test_the_interval_is_scipys_paired_bootstrap() -> None:
    """The same statistic, resampled over the images by scipy, has the same 95 % interval up to the bootstrap's own noise."""
    rng = np.random.default_rng(1)
    base_clean, own_clean = (rng.random(400) < 0.95) * 1, rng.binomial(10, 0.8, 400)
    base_fell, own_fell = base_clean * (rng.random(400) < 0.9), rng.binomial(own_clean, 0.4)

    def statistic(
        fell: NDArray[Any], clean: NDArray[Any], own: NDArray[Any], own_right: NDArray[Any], axis: int
    ) -> Floats:
        prevented = fell.sum(axis) / clean.sum(axis) - own.sum(axis) / own_right.sum(axis)
        loss = clean.mean(axis) - own_right.mean(axis) / 10
        return np.asarray(100 * prevented / np.maximum(100 * loss, 0.1))

    expected = stats.bootstrap(
        (base_fell, base_clean, own_fell, own_clean),
        statistic,
        paired=True,
        n_resamples=8000,
        method="percentile",
        rng=2,
    )
    base = counts(base_fell, base_clean, possible=base_clean)
    score = efficiency(base, counts(own_fell, own_clean, possible=own_clean, draws=10), resamples=8000)
    assert score.low < score.score < score.high
    # The standard error of a percentile from B samples is sqrt(q (1 - q) / B) / density: 0.8 % of the width of a normal
    # distribution's interval here, and 1.1 % between two of them, which is allowed six times.
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert (score.low, score.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.07 * width)


def test_many_scores_are_those_of_each_pair_alone() -> None:
    """Whatever the order, and among models with other numbers of images."""
    rng = np.random.default_rng(3)
    pairs = []
    for images in [30] * 100 + [40] * 3 + [30]:
        clean = rng.binomial(10, 0.9, (2, images))
        base, own = (counts(rng.binomial(right, 0.5), right, possible=right, draws=10) for right in clean)
        pairs.append((base, own))
    assert defense_efficiencies(pairs) == [efficiency(*pair) for pair in pairs]


def test_an_attack_that_could_not_succeed_gives_no_score() -> None:
    """A model without one right answer has no success rate, and so no score."""
    never = counts([0, 0, 0], [0, 0, 0], possible=[0, 0, 0])
    always = counts([1, 1, 1])
    assert defense_efficiencies([(always, never), (never, always), (always, always)])[:2] == [None, None]
