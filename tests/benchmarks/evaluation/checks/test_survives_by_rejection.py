from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustbench_cli.attacks.base.models.special_labels import REJECTED
from robustbench_cli.benchmarks.evaluation.checks.survives_by_rejection import SurvivesByRejection

from ...conftest import MakeOutcomes
from .conftest import MakeRow, MakeRows


@pytest.mark.parametrize(
    ("rejected", "classified", "flagged"),
    [(10, 10, True), (9, 9, False), (10, 11, False), (20, 0, True), (0, 20, False)],
)
def test_images_that_survive_by_rejection_are_counted(
    make_outcomes: MakeOutcomes,
    make_row: MakeRow,
    make_rows: MakeRows,
    rejected: int,
    classified: int,
    flagged: bool,
) -> None:
    """Of 30 images that are right when clean, the others are broken."""
    outcomes = make_outcomes(clean=[1] * 30, robust=[1] * (rejected + classified) + [0] * (30 - rejected - classified))
    perturbed = outcomes.perturbed.copy()
    perturbed[..., :rejected] = REJECTED
    rows = make_rows(make_row(replace(outcomes, perturbed=perturbed)))
    found = SurvivesByRejection("survives-by-rejection").finding_in_rows(rows)
    assert (found is not None) == flagged
    if found is not None:
        assert found.figures["robust_accuracy"] == pytest.approx((rejected + classified) / 30)
        assert found.figures["robust_accuracy_classified"] == pytest.approx(classified / 30)


def test_a_rejected_clean_image_is_no_survivor(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows
) -> None:
    """It is wrong already."""
    outcomes = make_outcomes(clean=[1] * 30, robust=[1] * 30)
    outcomes = replace(
        outcomes, clean=np.full_like(outcomes.clean, REJECTED), perturbed=np.full_like(outcomes.perturbed, REJECTED)
    )
    rows = make_rows(make_row(outcomes))
    assert SurvivesByRejection("survives-by-rejection").finding_in_rows(rows) is None
