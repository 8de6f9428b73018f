from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws
from robustbench_cli.benchmarks.reports.protocol_rows import protocols_table, readable_protocols
from robustbench_cli.benchmarks.reports.scored_rows import ScoredRow
from robustbench_cli.core.errors import UserError


def scored_row(right: Any, **row: Any) -> ScoredRow:
    right = np.atleast_2d(np.asarray(right, dtype=bool))
    draws = ScoredDraws(right=right)
    votes = 2 * right.sum(axis=0) > len(right)
    names = ("dataset", "model", "defense", "attack", "norm", "eps", "targeted", "eot", "n", "seed", "cell")
    usual = dict.fromkeys(names, "x") | {"repeats": len(right)}
    of_draws = {"clean": draws, "robust": draws, "clean_vote": votes, "robust_vote": votes}
    answers = np.zeros_like(right, dtype=np.int64)
    of_classes = {"labels": answers[0], "clean_answers": answers, "robust_answers": answers}
    return ScoredRow(row=usual | row, cells=[], **of_draws, **of_classes, survival=right.mean(axis=0))


def test_each_randomized_row_is_a_group() -> None:
    """With the expectation, a single draw, the vote, the curve and every draw; a deterministic model has none."""
    right = np.random.default_rng(0).random((12, 50)) < 0.8
    table = protocols_table([scored_row(right, cell="a"), scored_row([True, False]), scored_row(right[:2], cell="b")])
    assert table["cell"].value_counts(sort=False).to_dict() == {"a": 4 + 12, "b": 4 + 2}
    first = table[table["cell"] == "a"].set_index("protocol")
    assert first.loc["expected", "robust_accuracy"] == right.mean()
    assert first.loc["every-draw", "robust_accuracy"] == right.all(axis=0).mean()
    # All images alike: all of the variance comes from the draws.
    assert first["draw_variance"].iloc[0] == pytest.approx(1, abs=0.05)


def test_the_table_for_people_shows_a_part_of_the_curve() -> None:
    right = np.random.default_rng(0).random((12, 50)) < 0.8
    shown = readable_protocols(
        protocols_table([scored_row(right, defense="hrs"), scored_row(right[:2], defense="rse")])
    )
    assert shown.headers == ["defense", "repeats", "protocol", "clean", "robust"]
    assert [line[2] for line in shown.lines if line[0] == "hrs"] == [
        *("expected", "one-draw", "vote"),
        *(f"best of {k}" for k in (2, 3, 5, 10)),
        "every-draw",
    ]
    assert [line[2] for line in shown.lines if line[0] == "rse"] == ["expected", "one-draw", "vote", "every-draw"]
    assert shown.title.startswith("dataset x, model x, attack x, threat x x")
    assert len(shown.caption) == 5
    unattacked = readable_protocols(protocols_table([scored_row(right, attack="none")]))
    assert "attack none, threat -" in unattacked.title


def test_deterministic_rows_alone_are_refused() -> None:
    with pytest.raises(UserError, match="--protocols: no row has several draws"):
        protocols_table([scored_row([True, False])])
