from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.evaluation.checks.few_images import FewImages

from ...conftest import MakeOutcomes
from .conftest import MakeRow, MakeRows


@pytest.mark.parametrize(
    ("images", "right", "flagged"),
    [(100, 50, True), (370, 185, True), (385, 192, False), (100, 0, False), (120, 6, False), (1000, 500, False)],
)
def test_the_width_of_wilsons_interval_decides(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows, images: int, right: int, flagged: bool
) -> None:
    """Wilson's half width at 0.5 is z / (2 sqrt(n + z^2)): five points at n = 380.3; it is smaller near 0."""
    outcomes = make_outcomes(clean=[1] * images, robust=[1] * right + [0] * (images - right))
    found = FewImages("few-images").finding_in_rows(make_rows(make_row(outcomes)))
    assert (found is not None) == flagged
    if found is not None:
        assert found.figures["high"] - found.figures["low"] > 0.1
        assert found.figures["n"] == images
