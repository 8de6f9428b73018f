from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.evaluation.checks.accuracy_does_not_fall import AccuracyDoesNotFall

from ...conftest import MakeOutcomes
from .conftest import MakeRow, MakeRows

CHECK = AccuracyDoesNotFall("accuracy-does-not-fall")

N = 500


def accuracies(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows, clean: int, right: dict[float, int]
) -> object:
    """What is found where so many of the images are right at each radius, the same first ones."""
    rows = [
        make_row(make_outcomes(clean=[1] * clean + [0] * (N - clean), robust=[1] * count + [0] * (N - count)), eps)
        for eps, count in right.items()
    ]
    found = CHECK.finding_in_rows(make_rows(*rows))
    return None if found is None else found.severity


@pytest.mark.parametrize(
    ("clean", "right", "severity"),
    [
        (480, {0.1: 300, 0.2: 308}, "broken"),
        (480, {0.1: 300, 0.2: 307}, "suspicious"),
        (480, {0.1: 300, 0.2: 300}, "suspicious"),
        (480, {0.1: 300, 0.19: 300}, None),
        (480, {0.1: 300, 0.2: 150}, None),
        (480, {0.1: 450, 0.2: 400}, None),
        (480, {0.1: 475, 0.2: 475}, None),
        (480, {0.1: 60, 0.2: 50}, None),
        (480, {0.1: 20, 0.2: 20}, None),
        (480, {0.05: 460, 0.1: 420, 0.2: 300, 0.4: 80}, None),
        (480, {0.05: 460, 0.1: 300, 0.2: 299, 0.4: 298}, "suspicious"),
    ],
)
def test_curves(
    make_outcomes: MakeOutcomes,
    make_row: MakeRow,
    make_rows: MakeRows,
    clean: int,
    right: dict[float, int],
    severity: str | None,
) -> None:
    """A rise of 8 images has the two-sided p-value 2 / 2**8 = 0.0078; a plateau counts only after a fall, above near zero."""
    assert accuracies(make_outcomes, make_row, make_rows, clean, right) == severity


def test_only_the_same_attacks_are_compared(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows
) -> None:
    """A weaker attack at the larger radius alone is no rise; of one attack it is."""
    low = make_outcomes(clean=[1] * N, robust=[1] * 100 + [0] * 400)
    high = make_outcomes(clean=[1] * N, robust=[1] * 300 + [0] * 200)
    assert CHECK.finding_in_rows(make_rows(make_row(low, 0.1), make_row(high, 0.2, attack="fgsm"))) is None
    assert CHECK.finding_in_rows(make_rows(make_row(low, 0.1), make_row(high, 0.2, seed=1))) is None
    found = CHECK.finding_in_rows(
        make_rows(make_row(low, 0.1), make_row(high, 0.1, attack="fgsm"), make_row(high, 0.2))
    )
    assert found is not None
    assert found.evidence == "under pgd the robust accuracy rises from 0.200 at eps 0.1 to 0.600 at eps 0.2"
