from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from robustbench_cli.benchmarks.evaluation.checks.above_chance import AboveChance

from ...conftest import MakeOutcomes
from .conftest import MakeRow, MakeRows


@pytest.mark.parametrize(
    ("eps", "norm", "right", "changes", "flagged"),
    [
        (0.5, "linf", 40, {}, True),
        (0.5, "linf", 20, {}, False),
        (0.49, "linf", 40, {}, False),
        (1.0, "linf", 40, {}, True),
        (0.5, "l2", 40, {}, False),
        (None, "l2", 40, {}, True),
        (None, "l2", 10, {}, False),
        (0.5, "linf", 40, {"access": "none"}, False),
        (0.5, "linf", 40, {"targeted": "next"}, False),
    ],
)
def test_more_than_one_class_survives(
    make_outcomes: MakeOutcomes,
    make_row: MakeRow,
    make_rows: MakeRows,
    eps: float | None,
    norm: str,
    right: int,
    changes: dict[str, Any],
    flagged: bool,
) -> None:
    """Wilson's lower end for 40 right images of 100 is 0.309; ten or five classes are equally frequent."""
    outcomes = make_outcomes(clean=[1] * 100, robust=[1] * right + [0] * (100 - right))
    frequent = 20 if right == 20 else 10
    labels = np.repeat(np.arange(100 // frequent), frequent)
    outcomes = replace(
        outcomes, labels=labels, clean=labels[None], perturbed=np.where(outcomes.perturbed == 0, labels, labels + 1)
    )
    found = AboveChance("above-chance").finding_in_rows(make_rows(make_row(outcomes, eps, **changes), norm=norm))
    assert (found is not None) == flagged


@pytest.mark.parametrize("draws", [1, 2])
def test_a_randomized_model_may_have_no_perturbation_that_fools_every_draw(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows, draws: int
) -> None:
    """So that a minimal-norm attack on it proves nothing."""
    outcomes = make_outcomes(clean=[draws] * 100, robust=[draws] * 100, draws=draws)
    labels = np.repeat(np.arange(10), 10)
    right = np.broadcast_to(labels, (draws, 100))
    outcomes = replace(outcomes, labels=labels, clean=right, perturbed=right[None])
    found = AboveChance("above-chance").finding_in_rows(make_rows(make_row(outcomes, None)))
    assert (found is not None) == (draws == 1)
