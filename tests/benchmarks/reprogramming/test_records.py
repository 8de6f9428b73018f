from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.reprogramming.records import (
    RECORDS,
    ReprogrammedModel,
)

OLDER_STORE = Path(__file__).parent / "older_store"
"""A result that an earlier version stored (commit 74bedeb, before the move into rooms)."""

CELL = "ee8d08ad2e473aabc114"


@pytest.fixture
def older() -> ReprogrammedModel:
    """The result of the earlier version."""
    return RECORDS.read(RECORDS.file(OLDER_STORE, CELL))


def test_a_store_of_an_earlier_version_is_read(older: ReprogrammedModel, tmp_path: Path) -> None:
    """The row has the earlier version's figures, and is written back byte for byte."""
    assert list(RECORDS.stored(OLDER_STORE, damaged=pytest.fail)) == [older]
    assert (older.n, older.eot, older.repeats, older.forwards, older.backwards) == (5, 1, 1, 64, 64)
    assert (older.reprogrammed_accuracy, older.commonest_class) == (0.0, 0.4)
    assert older.reprogrammed_accuracy_high == pytest.approx(0.434482464783)
    RECORDS.write(tmp_path, older)
    assert RECORDS.file(tmp_path, CELL).read_bytes() == RECORDS.file(OLDER_STORE, CELL).read_bytes()
