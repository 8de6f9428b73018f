from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustbench_cli.benchmarks.evaluation.checks.class_never_predicted import ClassNeverPredicted

from ...conftest import MakeOutcomes
from .conftest import MakeRow, MakeRows


@pytest.mark.parametrize(
    ("images", "predicted", "flagged"),
    [(10, [0, 1], True), (9, [0, 1], False), (10, [0, 1, 2], False), (10, [0, 2, 2], True)],
)
def test_a_class_that_is_never_predicted_is_found(
    make_outcomes: MakeOutcomes,
    make_row: MakeRow,
    make_rows: MakeRows,
    images: int,
    predicted: list[int],
    flagged: bool,
) -> None:
    """It counts as predicted if any image is taken for it; a class of few images may be missed by chance."""
    count = 3 * images
    outcomes = make_outcomes(clean=[1] * count, robust=[1] * count)
    clean = np.resize(predicted, (1, count))
    outcomes = replace(outcomes, labels=np.repeat([0, 1, 2], images), clean=clean)
    found = ClassNeverPredicted("class-never-predicted").finding_in_rows(make_rows(make_row(outcomes)))
    assert (found is not None) == flagged
    if found is not None:
        missing = ({0, 1, 2} - {*predicted}).pop()
        assert found.evidence == f"1 of the 3 classes are predicted for no clean image: {missing}"


def test_one_draw_is_enough(make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows) -> None:
    """A randomized model that predicts a class in some draw has learned it."""
    outcomes = make_outcomes(clean=[2] * 20, robust=[2] * 20, draws=2)
    clean = np.array([[0] * 20, [0] * 19 + [1]])
    outcomes = replace(outcomes, labels=np.repeat([0, 1], 10), clean=clean)
    assert ClassNeverPredicted("class-never-predicted").finding_in_rows(make_rows(make_row(outcomes))) is None
