from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.comparison.tables import markdown


def test_columns_are_aligned() -> None:
    """The first column is aligned left and the others right, also in the rule."""
    assert markdown(("library", "s"), [("advdef", "1.5"), ("another one", "20.25")]) == (
        "| library     |     s |\n| :---------- | ----: |\n| advdef      |   1.5 |\n| another one | 20.25 |"
    )


def test_a_row_of_another_length_is_an_error() -> None:
    """Too few cells for the columns."""
    with pytest.raises(ValueError, match="2 cells"):
        markdown(("a", "b"), [("1",)])
