from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.comparison.tables import markdown


def test_columns_are_aligned() -> None:
    """The first column stands at the left, the others at the right, and the rule says so."""
    assert markdown(("library", "s"), [("advdef", "1.5"), ("another one", "20.25")]) == (
        "| library     |     s |\n| :---------- | ----: |\n| advdef      |   1.5 |\n| another one | 20.25 |"
    )


def test_a_row_of_another_length_is_refused() -> None:
    """A cell that is missing or too many is no table."""
    with pytest.raises(ValueError, match="2 cells"):
        markdown(("a", "b"), [("1",)])
