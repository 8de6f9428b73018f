from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws
from robustbench_cli.benchmarks.reports.class_rows import classes_table, readable_classes
from robustbench_cli.benchmarks.reports.scored_rows import ScoredRow
from robustbench_cli.core.errors import UserError

LABELS = np.array([0, 0, 6, 6])


def scored_row(answers: Any, **row: Any) -> ScoredRow:
    answers = np.atleast_2d(np.asarray(answers))
    right = answers == LABELS
    names = ("dataset", "model", "defense", "attack", "norm", "eps", "targeted", "eot", "n", "repeats", "seed", "cell")
    clean, robust = ScoredDraws(right=np.full(right.shape, True)), ScoredDraws(right=right)
    return ScoredRow(
        row=dict.fromkeys(names, "x") | row,
        cells=[],
        clean=clean,
        robust=robust,
        clean_vote=right[0],
        robust_vote=right[0],
        survival=right.mean(axis=0),
        labels=LABELS,
        clean_answers=np.tile(LABELS, (len(answers), 1)),
        robust_answers=answers,
    )


def test_each_class_is_a_row() -> None:
    """With its figures on clean and on attacked images, and what it is taken for."""
    table = classes_table([scored_row([0, 6, 6, 6], cell="a"), scored_row([[0, 0, 6, 6], [6, 6, 6, 6]], cell="b")])
    assert [*table["class"]] == [0, 6] * 2
    assert table[["robust_recall", "robust_precision"]].to_numpy().tolist() == [
        [0.5, 1.0],
        [1.0, pytest.approx(2 / 3)],
        [0.5, 1.0],
        [1.0, pytest.approx(2 / 3)],
    ]
    assert (table[["clean_recall", "clean_precision"]] == 1).all(axis=None)
    assert [*table["confused_with"]] == [6, None, 6, None]


def test_the_table_for_people() -> None:
    shown = readable_classes(classes_table([scored_row([0, 6, 6, 6], defense="csa"), scored_row([0] * 4)]))
    assert shown.headers[:3] == ["defense", "class", "images"]
    assert shown.lines[0][-1] == "6 50.0"
    assert shown.lines[3][-3:] == ["100.0", "-", "0 100.0"]


def test_without_rows_is_one_line() -> None:
    with pytest.raises(UserError, match="--by-class: there are no rows"):
        classes_table([])
