from __future__ import annotations

import numpy as np
import pytest

from ....conftest import MakeOutcomes
from ..conftest import MakeRow, MakeRows


def test_threats_are_in_the_order_of_their_radii(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows
) -> None:
    """Any distance is last; targeted rows, other seeds and other counts of draws are threats of their own."""
    outcomes = make_outcomes(clean=[1, 1], robust=[1, 0])
    draws = make_outcomes(clean=[2, 2], robust=[1, 0], draws=2)
    group = make_rows(
        make_row(outcomes, None),
        make_row(outcomes, 0.2),
        make_row(outcomes, 0.1, attack="cw"),
        make_row(outcomes, 0.1),
        make_row(outcomes, 0.1, seed=1),
        make_row(draws, 0.1),
    )
    assert [(threat.text, len(threat.rows)) for threat in group.threats] == [
        ("eps 0.1", 2),
        ("eps 0.1", 1),
        ("eps 0.1", 1),
        ("eps 0.2", 1),
        ("any distance", 1),
    ]
    assert group.randomized


def test_the_worst_case_is_taken_image_by_image(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows
) -> None:
    """Two attacks that break one image each leave two of four."""
    first = make_outcomes(clean=[4] * 4, robust=[0, 4, 2, 4], draws=4)
    second = make_outcomes(clean=[4] * 4, robust=[4, 1, 3, 4], draws=4)
    (threat,) = make_rows(make_row(first), make_row(second, attack="cw")).threats
    assert np.array_equal(threat.right, [0, 0.25, 0.5, 1])
    assert threat.robust_accuracy == pytest.approx(1.75 / 4)
    assert threat.clean_accuracy == 1
    assert threat.interval[0] < 1.75 / 4 < threat.interval[1]


def test_a_row_that_stopped_early_has_its_own_interval(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows
) -> None:
    """That of many looks at the accuracy, which is stored with the row."""
    outcomes = make_outcomes(clean=[1] * 4, robust=[1, 1, 0, 0])
    (threat,) = make_rows(make_row(outcomes, stopped_interval=(0.1, 0.9))).threats
    assert threat.interval == (0.1, 0.9)
