from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.reports.rows import Together, rows
from robustbench_cli.benchmarks.reports.scored_rows import scored_rows
from robustbench_cli.benchmarks.store.records import Result

from ..conftest import MakeCell, MakeOutcomes, MakeResult


def test_each_row_has_the_draws_that_its_accuracies_are_of(
    make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """Of two attacks, of their worst case and of another model; the figures of the rows follow from the draws."""
    stored: dict[str, tuple[Result, Outcomes]] = {}
    for attack, checkpoint, robust in (("pgd", "a", [3, 0, 4, 2]), ("fgsm", "a", [4, 4, 0, 2]), ("pgd", "b", [1] * 4)):
        cell = make_cell(checkpoint=checkpoint, repeats=4, attack=MethodSpec(name=attack, parameters={}))
        outcomes = make_outcomes(clean=[4, 4, 4, 3], robust=robust, draws=4)
        stored[cell.id] = make_result(cell, outcomes)[0], outcomes

    def read(group: Sequence[Result]) -> Together:
        return group, Outcomes.stacked([stored[result.cell.id][1] for result in group])

    results = [result for result, _ in stored.values()]
    table = rows(results, read)
    scored = scored_rows(table, results, read)
    assert [row.row["cell"] for row in scored] == list(table["cell"])
    assert [len(row.cells) for row in scored] == [1, 1, 2, 1]
    for row in scored:
        assert row.robust.accuracy == row.row["robust_accuracy"]
        assert row.clean.accuracy == row.row["clean_accuracy"]
        assert row.robust_vote.mean() == row.row["robust_accuracy_vote"]
        assert np.all(row.clean_vote)
    # Worst case: 3, 0, 0 and 2 of 4 draws.
    assert scored[2].robust.shares.tolist() == [0.75, 0.0, 0.0, 0.5]
    one = scored_rows(table[table["attack"] == "fgsm"], results, read)
    assert [row.row["attack"] for row in one] == ["fgsm"]
