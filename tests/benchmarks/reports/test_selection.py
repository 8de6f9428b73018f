from __future__ import annotations

import math

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports.selection import (
    parse_columns,
    parse_sort,
    selected_columns,
    sorted_rows,
    without_names,
)
from robustbench_cli.core.errors import UserError

TABLE = pd.DataFrame(
    {
        "defense": ["hrs", "none", "hrs", "none"],
        "eps": ["0.1", "8/255", "8/255", "any"],
        "eps_value": [0.1, 8 / 255, 8 / 255, math.nan],
        "robust_accuracy": [0.2, 0.4, 0.3, 0.0],
    }
)


@pytest.mark.parametrize(
    ("keys", "order"),
    [
        ([], [0, 1, 2, 3]),
        (["robust_accuracy"], [3, 0, 2, 1]),
        (["-robust_accuracy"], [1, 2, 0, 3]),
        # As a number: as a text, 8/255 would come after 0.1.
        (["eps"], [1, 2, 0, 3]),
        (["-eps"], [0, 1, 2, 3]),
        (["defense", "-robust_accuracy"], [2, 0, 1, 3]),
    ],
)
def test_rows_are_sorted_by_several_columns(keys: list[str], order: list[int]) -> None:
    """The first column counts most, rows without a value are last, and equal rows keep their order."""
    assert list(sorted_rows(TABLE, keys).index) == order


def test_what_tells_rows_apart_is_named() -> None:
    """The fewest columns, in the order of the table, beside those that are chosen."""
    assert without_names(TABLE, ["robust_accuracy"]) == ["defense", "eps"]
    assert without_names(TABLE, ["eps", "robust_accuracy"]) == ["defense"]
    assert without_names(TABLE, ["eps", "defense"]) == without_names(TABLE[:1], ["robust_accuracy"]) == []
    assert without_names(TABLE.assign(cell=[*"abcd"]), ["cell"]) == []


def test_a_wrong_name_is_a_user_error() -> None:
    """The line suggests the right one."""
    assert parse_columns("defense, eps") == ["defense", "eps"]
    with pytest.raises(UserError, match=r"^--columns 'eps,robust': unknown column 'robust': .*robust_accuracy"):
        parse_columns("eps,robust")
    with pytest.raises(UserError, match=r"^--columns 'eps,eps': 'eps' is given twice"):
        parse_columns("eps,eps")
    with pytest.raises(UserError, match=r"^--sort '-sed': unknown column 'sed': did you mean 'seed'"):
        parse_sort("-sed")
    assert parse_sort("-certified_accuracy") == "-certified_accuracy"
    with pytest.raises(UserError, match=r"^--sort certified_accuracy: the table has no such column"):
        sorted_rows(TABLE, ["-certified_accuracy"])


def test_a_column_of_files_is_shown_by_its_name() -> None:
    """It has no header of its own; others keep theirs."""
    headers = [entry.shown.header for entry in selected_columns(["seconds", "robust_accuracy"]) if entry.shown]
    assert headers == ["seconds", "robust"]
