from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustbench_cli.benchmarks.evaluation.statistics.intervals import images_interval, passes_interval
from robustbench_cli.benchmarks.evaluation.statistics.paired import (
    ScoredDraws,
    compare_paired,
    holm,
    p_value_of_equality,
    sign_flip_test,
)


def scored(right: Any, *, shared: bool = False) -> ScoredDraws:
    return ScoredDraws(right=np.atleast_2d(np.asarray(right, dtype=bool)), shared=shared)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20))
def test_two_deterministic_models_have_mcnemars_exact_test(wins: int, losses: int, ties: int) -> None:
    """It is scipy's binomial test on the images on which they differ."""
    ties += not wins + losses
    first, second = [True] * wins + [False] * losses, [False] * wins + [True] * losses
    compared = compare_paired(scored([*first, *[True] * ties]), scored([*second, *[True] * ties]))
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert (compared.p_value, compared.test) == (pytest.approx(expected, rel=1e-9), "mcnemar")
    assert (compared.first_only, compared.second_only) == (wins, losses)
    assert compared.difference == pytest.approx((wins - losses) / (wins + losses + ties))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
@settings(deadline=None)
def test_the_sign_flip_test_counts_all_signs(differences: list[int]) -> None:
    """The transform gives what an enumeration of all signs gives."""
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))]
    expected = np.mean([value >= abs(sum(differences)) for value in sums])
    assert sign_flip_test(np.array(differences)) == pytest.approx(expected, abs=1e-12)


def test_the_sign_flip_test_is_scipys_permutation_test() -> None:
    """With hundreds of images, against scipy's random signs, within four standard errors of these."""
    rng = np.random.default_rng(0)
    differences = rng.binomial(10, 0.55, 300) - rng.binomial(10, 0.53, 300)
    permuted = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    )
    p_value = sign_flip_test(differences)
    assert p_value == pytest.approx(permuted.pvalue, abs=4 * math.sqrt(p_value * (1 - p_value) / 20_000) + 1e-4)


def test_the_interval_is_newcombes() -> None:
    """Newcombe (1998), method 10 without the correction of the correlation, by its formula with scipy's intervals."""
    both, first_only, second_only, none = 36, 12, 2, 6
    first = [True] * (both + first_only) + [False] * (second_only + none)
    second = [True] * both + [False] * first_only + [True] * second_only + [False] * none
    compared = compare_paired(scored(first), scored(second))
    number = both + first_only + second_only + none
    ends = [stats.binomtest(sum(model), number).proportion_ci(method="wilson") for model in (first, second)]
    means = [sum(model) / number for model in (first, second)]
    correlation = (both * none - first_only * second_only) / math.sqrt(48 * 8 * 38 * 18)
    below, above = means[0] - ends[0].low, ends[1].high - means[1]
    low = means[0] - means[1] - math.sqrt(below**2 - 2 * correlation * below * above + above**2)
    above, below = ends[0].high - means[0], means[1] - ends[1].low
    high = means[0] - means[1] + math.sqrt(above**2 - 2 * correlation * below * above + below**2)
    assert (compared.low, compared.high) == pytest.approx((low, high), abs=1e-12)


def alarms(p_values: Sequence[float]) -> int:
    return sum(p_value <= 0.05 for p_value in p_values)


SIMULATED = 300
MOST_ALARMS = int(stats.binom.ppf(1 - 1e-6, SIMULATED, 0.05))


@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["two randomized", "randomized and deterministic", "shared draws"])
def test_equal_models_are_seldom_said_to_differ(kind: str, accuracy: float) -> None:
    """Of 300 comparisons of equal accuracies, no more alarm than 5 % explains, at a level of 1e-6; and the interval holds 0.

    The differences of the second kind are far from symmetric: many images differ by a tenth, few by nine tenths.
    """
    rng = np.random.default_rng(round(10 * accuracy))
    images, draws = 150, 10

    def of_shares(shares: np.ndarray[Any, Any], number: int) -> ScoredDraws:
        return scored(rng.random((number, images)) < shares)

    def with_shared_draws(difficulty: np.ndarray[Any, Any]) -> ScoredDraws:
        passes, noise = 0.3 * rng.standard_normal((draws, 1)), 0.5 * rng.standard_normal((draws, images))
        return scored(difficulty + passes + noise > 0, shared=True)

    compared = []
    for _ in range(SIMULATED):
        if kind == "two randomized":
            shares = rng.beta(accuracy, 1 - accuracy, images)
            models = of_shares(shares, draws), of_shares(shares, draws)
        elif kind == "shared draws":
            difficulty = stats.norm.ppf(accuracy) * math.sqrt(1.34) + rng.standard_normal((1, images))
            models = with_shared_draws(difficulty), with_shared_draws(difficulty)
        else:
            constant = np.full(images, accuracy)
            models = of_shares(constant, draws), of_shares((rng.random(images) < constant) * 1.0, 1)
        compared.append(compare_paired(*models))
    assert alarms([entry.p_value for entry in compared]) <= MOST_ALARMS
    assert sum(not entry.low <= 0 <= entry.high for entry in compared) <= MOST_ALARMS


def test_a_difference_is_found() -> None:
    """Three points on 1,000 images of the same difficulty are found by ten draws in most of 100 comparisons."""
    rng = np.random.default_rng(2)
    found = []
    for _ in range(100):
        shares = rng.beta(0.3, 0.3, 1000)
        first, second = (scored(rng.random((10, 1000)) < own) for own in (shares, np.maximum(0, shares - 0.06)))
        found.append(compare_paired(first, second).p_value)
    assert alarms(found) >= 95


def test_shared_draws_make_a_difference_less_sure() -> None:
    """The same answers are worth less if each pass is one draw, and a single pass is worth nothing."""
    rng = np.random.default_rng(3)
    first = (rng.random((5, 1)) < 0.5) & (rng.random((5, 400)) < 0.9)
    second = rng.random((5, 400)) < 0.3
    alone = compare_paired(scored(first), scored(second))
    passes = compare_paired(scored(first, shared=True), scored(second, shared=True))
    assert alone.p_value <= 1e-4
    assert passes.p_value > 0.05
    assert (alone.test, passes.test) == ("sign-flip", "two-level")
    single = compare_paired(scored(first[:1], shared=True), scored(second))
    assert (single.p_value, single.test) == (1.0, "none")


def test_a_significant_difference_has_an_interval_without_zero() -> None:
    """For randomized models the test and the interval agree."""
    rng = np.random.default_rng(4)
    for _ in range(100):
        first, second = (scored(rng.random((4, 60)) < share) for share in (0.6, 0.5))
        compared = compare_paired(first, second)
        assert compared.p_value > 0.05 or not compared.low <= 0 <= compared.high


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("draws", [1, 4])
def test_a_p_value_below_a_level_is_the_same_with_it(draws: int, *, shared: bool) -> None:
    """A level leaves out work, and changes no decision at this level."""
    rng = np.random.default_rng(6)
    decisions = set()
    for lead in np.linspace(0, 0.4, 20):
        first, second = (scored(rng.random((draws, 80)) < share, shared=shared) for share in (0.5 + lead, 0.5))
        p_value, test = p_value_of_equality(first, second)
        for level in (0.2, 0.01):
            p_value_at_level, test_at_level = p_value_of_equality(first, second, level=level)
            assert test_at_level == test
            assert p_value_at_level == p_value if p_value < level else p_value_at_level >= level
            decisions.add(p_value < level)
    # A single shared draw has no test.
    assert decisions == ({False} if shared and draws == 1 else {False, True})


def test_the_interval_of_a_model_is_that_of_its_row() -> None:
    right = np.random.default_rng(5).random((10, 50)) < 0.7
    assert scored(right).interval(0.95) == images_interval(right)
    assert scored(right, shared=True).interval(0.95) == passes_interval(right)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_closed_testing_with_bonferroni(p_values: list[float]) -> None:
    """A hypothesis falls exactly where every set of hypotheses that holds it falls by Bonferroni (Marcus et al. 1976)."""
    indices = range(len(p_values))
    for index, adjusted in zip(indices, holm(p_values), strict=True):
        sets = [
            subset
            for size in range(1, len(p_values) + 1)
            for subset in itertools.combinations(indices, size)
            if index in subset
        ]
        expected = max(min(1.0, len(subset) * min(p_values[member] for member in subset)) for subset in sets)
        assert adjusted == pytest.approx(expected)
