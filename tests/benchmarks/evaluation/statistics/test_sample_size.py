from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws, compare_paired
from robustbench_cli.benchmarks.evaluation.statistics.sample_size import ComparisonPlan, images_needed, mcnemar_power
from robustbench_cli.core.errors import UserError


@pytest.mark.parametrize(("difference", "disagreement", "images"), [(0.05, 0.2, 25), (0.2, 0.4, 40), (0.3, 0.3, 12)])
def test_the_power_is_that_of_all_tables(difference: float, disagreement: float, images: int) -> None:
    """The sum over all numbers of images that only one model gets right, with scipy's test."""
    shares = (disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement
    power = sum(
        stats.multinomial.pmf([wins, losses, images - wins - losses], images, shares)
        for wins in range(images + 1)
        for losses in range(images + 1 - wins)
        if wins + losses and stats.binomtest(wins, wins + losses).pvalue <= 0.05
    )
    plan = ComparisonPlan(accuracy=0.6, difference=difference, disagreement=disagreement)
    assert mcnemar_power(plan, images) == pytest.approx(power, abs=1e-9)


def test_connors_formula() -> None:
    """Connor (1987): ``(1.96 sqrt(psi) + 0.84 sqrt(psi - d^2))^2 / d^2`` is a little less than the exact test needs."""
    plan = ComparisonPlan(accuracy=0.5, difference=0.05, disagreement=0.2)
    connor = math.ceil(((1.959964 * math.sqrt(0.2) + 0.841621 * math.sqrt(0.2 - 0.0025)) / 0.05) ** 2)
    # With draws there is no table of images to sum over, and the formula alone is left.
    assert images_needed(ComparisonPlan(accuracy=0.5, difference=0.05, disagreement=0.2, draw_variance=1e-12)) == connor
    images = images_needed(plan)
    assert connor < images < 1.1 * connor
    assert mcnemar_power(plan, images) >= 0.8 > mcnemar_power(plan, round(0.97 * images))


def test_other_images_need_the_usual_number() -> None:
    """Fleiss (1981), section 3.2: the formula of every text book for two shares."""
    first, second = 0.5, 0.45
    mean = (first + second) / 2
    spread = first * (1 - first) + second * (1 - second)
    expected = (1.959964 * math.sqrt(2 * mean * (1 - mean)) + 0.841621 * math.sqrt(spread)) ** 2 / 0.05**2
    assert images_needed(ComparisonPlan(accuracy=first, difference=0.05), paired=False) == math.ceil(expected)


@pytest.mark.parametrize("draws", [1, 5])
def test_the_planned_power_is_had(draws: int) -> None:
    """Of 200 planned comparisons of randomized models, as many find the difference as 80 % explains, at a level of 1e-6.

    Beta-distributed difficulties, equal for both models but for the difference.
    """
    rng = np.random.default_rng(draws)
    concentration, accuracy, difference = 1.0, 0.6, 0.1
    number = 200_000
    shares = rng.beta(accuracy * concentration, (1 - accuracy) * concentration, number)
    other = shares * (1 - difference / accuracy)
    disagreement = float((shares * (1 - other) + other * (1 - shares)).mean())
    own = [(values * (1 - values)).mean() for values in (shares, other)]
    whole = [values.mean() * (1 - values.mean()) for values in (shares, other)]
    plan = ComparisonPlan(
        accuracy=float(shares.mean()),
        difference=float(shares.mean() - other.mean()),
        disagreement=disagreement,
        draw_variance=float(sum(own) / sum(whole)),
    )
    images = images_needed(plan, repeats=draws)
    found = 0
    for _ in range(200):
        chosen = rng.integers(number, size=images)
        models = [ScoredDraws(right=rng.random((draws, images)) < values[chosen]) for values in (shares, other)]
        found += compare_paired(*models).p_value <= 0.05
    assert stats.binomtest(found, 200, 0.8).pvalue > 1e-6


def test_more_draws_need_fewer_images_down_to_those_of_the_images_alone() -> None:
    plan = ComparisonPlan(accuracy=0.5, difference=0.02, draw_variance=0.5)
    images = [images_needed(plan, repeats=repeats) for repeats in (1, 2, 10, 1000)]
    assert images == sorted(images, reverse=True)
    assert images[-1] == pytest.approx(images[0] / 2, rel=0.01)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accuracy": 0.1, "difference": 0.2}, "a difference of 0.2 below an accuracy of 0.1 is not possible"),
        ({"accuracy": 0.5, "difference": 0.0}, "a difference of 0 below an accuracy of 0.5 is not possible"),
        ({"accuracy": 0.5, "difference": 0.1, "disagreement": 0.05}, "it is from 0.1 to 0.9"),
        (
            {"accuracy": 0.5, "difference": 0.02, "disagreement": 0.1, "draw_variance": 0.5},
            "a disagreement of 0.1 is not possible: with these accuracies and draws it is from 0.2502 to 0.98",
        ),
    ],
)
def test_impossible_figures_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ComparisonPlan(**values)
