from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.reports import columns
from robustbench_cli.benchmarks.reports.columns import Column, RowSource, Shown, identity_columns, shown_columns
from robustbench_cli.benchmarks.reports.formats import as_text
from robustbench_cli.benchmarks.reports.gate_options import gate_with
from robustbench_cli.benchmarks.reports.gates import Limit, compare, parse_conditions, parse_limit
from robustbench_cli.benchmarks.reports.readable import readable
from robustbench_cli.benchmarks.reports.rows import rows
from robustbench_cli.cli import console, tables
from robustbench_cli.core.errors import UserError

from ..conftest import MakeCell, MakeOutcomes, MakeResult

ADDED = Column(
    "half_robust",
    "share",
    lambda row: row.summary["robust_accuracy"] / 2 if row.results else None,  # type: ignore[operator]
    gate="higher",
    shown=Shown("half"),
)


@pytest.fixture
def table(make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> Callable[[], pd.DataFrame]:
    """Makes the table of one stored result, of which three of four images are right."""

    def make() -> pd.DataFrame:
        outcomes = make_outcomes(clean=[1] * 4, robust=[1, 1, 1, 0])
        result, _ = make_result(make_cell(repeats=1), outcomes)
        return rows([result], lambda results: (results, Outcomes.stacked([outcomes])))

    return make


def test_one_entry_adds_a_column_everywhere(
    table: Callable[[], pd.DataFrame], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CSV, JSON, Markdown, terminal, conditions and gates have a column as soon as the table of columns has it."""
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, ADDED))
    made = table()
    header, line = (text.split(",") for text in as_text(made, "csv").splitlines())
    assert (header[-1], line[-1]) == ("half_robust", "0.375")
    assert '"half_robust": 0.375' in as_text(made, "json")
    assert as_text(made, "markdown").splitlines()[4].split("|")[-2].strip() == "37.5"
    console.report(tables.for_terminal(made))
    _, _, headers, _, row, *_ = capsys.readouterr().out.splitlines()
    assert (headers.split()[-1], row.split()[-1]) == ("half", "37.5")
    assert parse_limit("half_robust=0.4", gate=gate_with(upper=False, baseline=False)) == Limit("half_robust", 0.4)
    assert [line.partition(": ")[2] for line in compare(made, Limit("half_robust", 0.4)).broken] == [
        "half_robust 0.375 is below 0.4"
    ]
    assert parse_conditions(["half_robust=0.375"]) == {"half_robust": ["0.375"]}


def test_without_the_entry_there_is_no_such_column(table: Callable[[], pd.DataFrame]) -> None:
    """The column is nowhere, and a gate on it is a user error."""
    assert "half_robust" not in table().columns
    with pytest.raises(UserError, match="unknown column 'half_robust'"):
        parse_limit("half_robust=0.4", gate=gate_with(upper=False, baseline=False))


def test_gates_judge_measured_values_in_the_right_direction() -> None:
    """Success rates, errors and costs are better when they are lower; accuracies and distances when they are higher."""
    lower = {entry.name for entry in columns.COLUMNS if entry.gate == "lower"}
    assert lower == {
        "attack_success_rate",
        "mce",
        "forwards",
        "backwards",
        "seconds",
        "certified_gap",
        "parameters",
        "nonzero",
        "macs",
    }
    higher = {entry.name for entry in columns.COLUMNS if entry.gate == "higher"}
    assert {"robust_accuracy", "robust_accuracy_low", "clean_accuracy", "mean_l2", "des"} <= higher
    assert not {"n", "seed", "flags", "cell"} & higher


def test_older_tables_lack_the_normalization() -> None:
    """A comparison uses mean and std, and the corruption, only where both tables have them."""
    names = identity_columns()
    assert names[-6:] == ["mean", "std", "corruption", "severity", "accounting", "stop_when_decided"]
    assert identity_columns(available=[]) == names[:-6]
    assert identity_columns(available=["std"]) == [*names[:-6], "std"]


def test_a_cell_without_a_result_has_only_what_describes_it(make_cell: MakeCell) -> None:
    """No figure, no cost and no flag, and its own hash."""
    cell = make_cell()
    source = RowSource(cell, "8/255")
    values: dict[str, Any] = {entry.name: entry.value(source) for entry in columns.COLUMNS if entry.value is not None}
    present = {name for name, value in values.items() if value is not None}
    assert present == {
        *("dataset", "model", "defense", "attack", "norm", "eps", "targeted", "eot", "n", "repeats", "seed"),
        *("cell", "eps_value", "checkpoint_sha256", "accounting", "family"),
    }
    assert values["cell"] == cell.id


def test_columns_are_drawn_from_left_to_right(table: Callable[[], pd.DataFrame]) -> None:
    """By their positions; values that all rows share are no columns."""
    headers = [entry.shown.header for entry in shown_columns(table()) if entry.shown is not None]
    assert headers == ["defense", "attack", "threat", "eot", "clean", "robust", "success", "l2", "passes"]
    assert readable(table())[1][0][4:6] == ["100.0 [51,100]", "75.0 [30,96]"]
