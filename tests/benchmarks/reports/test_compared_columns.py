from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.reports.columns import column_names
from robustbench_cli.benchmarks.reports.compared_columns import COMPARED, is_hash


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7d136626f70faf33c5de", True), ("7d1366", True), ("7d136", False), ("defense", False), ("7D1366", False)],
)
def test_a_hash_is_recognized(text: str, expected: bool) -> None:
    """From six digits on; a column's name is none."""
    assert is_hash(text) == expected


def test_compared_columns_are_columns_of_the_table() -> None:
    assert {*COMPARED} <= {*column_names()}
