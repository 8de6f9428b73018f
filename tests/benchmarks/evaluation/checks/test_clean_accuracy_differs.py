from __future__ import annotations

import numpy as np
import pytest

from robustbench_cli.benchmarks.evaluation.checks.clean_accuracy_differs import CleanAccuracyDiffers

from ...conftest import MakeOutcomes
from .conftest import MakeRow, MakeRows

CHECK = CleanAccuracyDiffers("clean-accuracy-differs")


@pytest.mark.parametrize(("errors", "raised"), [(0, False), (10, False), (11, True)])
def test_the_clean_accuracy_of_two_attacks_is_the_same(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows, errors: int, raised: bool
) -> None:
    """Of a deterministic model, n images that only one row has right have the probability 2 ** (1 - n)."""
    first = make_outcomes(clean=[1] * 40, robust=[0] * 40)
    second = make_outcomes(clean=[0] * errors + [1] * (40 - errors), robust=[0] * 40)
    found = CHECK.finding_in_rows(make_rows(make_row(first), make_row(second, attack="square")))
    assert (found is not None) == raised
    if found is not None:
        assert found.figures == {"accuracy": 1.0, "accuracy_other": 29 / 40}


def test_a_radius_of_zero_is_a_control(make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows) -> None:
    """The attack must leave the clean accuracy; at another radius it need not."""
    outcomes = make_outcomes(clean=[1] * 40, robust=[0] * 20 + [1] * 20)
    assert CHECK.finding_in_rows(make_rows(make_row(outcomes, eps=0.0))) is not None
    assert CHECK.finding_in_rows(make_rows(make_row(outcomes, eps=0.1))) is None


def test_draws_differ_by_chance(make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows) -> None:
    """Of 200 randomized models with two honest rows each, which draw ten times, none is flagged at level 0.001."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        shares = generator.beta(4, 1, 60)
        rows = []
        for attack in ("pgd", "square"):
            outcomes = make_outcomes(clean=[1] * 60, robust=[1] * 60, draws=10)
            clean = np.where(generator.random((10, 60)) < shares, outcomes.labels, outcomes.labels + 1)
            rows.append(make_row(type(outcomes)(**{**vars(outcomes), "clean": clean}), attack=attack))
        assert CHECK.finding_in_rows(make_rows(*rows)) is None
