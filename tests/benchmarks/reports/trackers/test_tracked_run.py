from __future__ import annotations

import csv
import io
import re

import pandas as pd

from robustbench_cli.benchmarks.reports.trackers.tracked_run import TrackedRun, tracked_runs

from ..result_rows import table


def test_a_run_for_each_model(runs: list[TrackedRun]) -> None:
    """With a point for each figure at each radius; a row at any distance is in the table alone."""
    first, hostile = runs
    assert first.name == "digits, small-cnn, none"
    assert first.flags == ["no-eot", "every-draw"]
    robust = [
        (point.eps, point.step, point.value) for point in first.points if point.metric == "robust_accuracy/linf/pgd"
    ]
    assert robust == [(8 / 255, 314, 0.2787), (16 / 255, 627, 0.1)]
    assert len(first.points) == 2 * 5
    assert len(list(csv.reader(io.StringIO(first.table)))) == 1 + 3
    assert hostile.name.isprintable()
    for text in (hostile.label, *(point.metric for point in hostile.points)):
        assert re.fullmatch(r"[\w/-]{1,250}", text, re.ASCII)


def test_equal_results_are_the_same_run(rows: pd.DataFrame) -> None:
    """In the order of the models; a changed figure makes another run of its model alone."""
    first, second = (run.id for run in tracked_runs(rows))
    changed = rows.copy()
    changed.loc[0, "robust_accuracy"] = 0.5
    again, same = (run.id for run in tracked_runs(changed))
    assert [run.id for run in tracked_runs(rows)] == [first, second]
    assert again != first
    assert same == second


def test_rows_that_names_do_not_tell_apart_are_two_series() -> None:
    """The second one has its cell in its name."""
    (run,) = tracked_runs(table({"cell": "aa"}, {"cell": "bb", "robust_accuracy": 0.1}))
    found = {point.metric: point.value for point in run.points if point.metric.startswith("robust_accuracy/")}
    assert found == {"robust_accuracy/linf/pgd": 0.2787, "robust_accuracy/linf/pgd/bb": 0.1}
