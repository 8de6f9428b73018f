from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustbench_cli.benchmarks.reprogramming.records import (
    ReprogrammedModel,
    leftovers,
    read,
    record_file,
    stored,
    take,
    write,
)
from robustbench_cli.core.errors import UserError

OLDER_STORE = Path(__file__).parent / "older_store"
"""A result that an earlier version stored (commit 74bedeb, before the move into rooms)."""

CELL = "ee8d08ad2e473aabc114"


@pytest.fixture
def older() -> ReprogrammedModel:
    """The result of the earlier version."""
    return read(record_file(OLDER_STORE, CELL))


def test_a_store_of_an_earlier_version_is_read(older: ReprogrammedModel, tmp_path: Path) -> None:
    """The row has the earlier version's figures, and is written back byte for byte."""
    assert list(stored(OLDER_STORE, damaged=pytest.fail)) == [older]
    assert (older.n, older.eot, older.repeats, older.forwards, older.backwards) == (5, 1, 1, 64, 64)
    assert (older.reprogrammed_accuracy, older.commonest_class) == (0.0, 0.4)
    assert older.reprogrammed_accuracy_high == pytest.approx(0.434482464783)
    write(tmp_path, older)
    assert record_file(tmp_path, CELL).read_bytes() == record_file(OLDER_STORE, CELL).read_bytes()


def test_a_merge_copies_what_is_missing(older: ReprogrammedModel, tmp_path: Path) -> None:
    """Nothing that is there is overwritten."""
    changed = older.model_copy(update={"seconds": 9.0})
    write(tmp_path, changed)
    other = older.model_copy(update={"cell": "b" * 20})
    write(tmp_path / "other", older)
    write(tmp_path / "other", other)
    assert take(tmp_path, tmp_path / "other", damaged=pytest.fail) == 1
    assert list(stored(tmp_path, damaged=pytest.fail)) == [other, changed]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b'"n": 5', b'"n": 6', "is damaged, its content is not what was stored"),
        (b"\n}\n", b"", "is damaged, its content is not what was stored"),
    ],
)
def test_a_damaged_file_is_named_and_skipped(
    older: ReprogrammedModel, tmp_path: Path, before: bytes, after: bytes, message: str
) -> None:
    """One error for each, and the other results are read."""
    write(tmp_path, older)
    write(tmp_path, older.model_copy(update={"cell": "b" * 20}))
    path = record_file(tmp_path, CELL)
    path.write_bytes(path.read_bytes().replace(before, after))
    errors: list[UserError] = []
    assert [row.cell for row in stored(tmp_path, damaged=errors.append)] == ["b" * 20]
    assert [str(error).partition(":")[0] for error in errors] == [f"{path} {message}"]


def test_a_file_with_the_name_of_another_cell(older: ReprogrammedModel, tmp_path: Path) -> None:
    """It is an error that names the cell that it holds."""
    write(tmp_path, older)
    path = record_file(tmp_path, CELL).rename(record_file(tmp_path, "c" * 20))
    with pytest.raises(UserError, match=f"{path} has the cell {CELL}: remove it, or restore its name"):
        read(path)


def test_half_written_files_are_leftovers(older: ReprogrammedModel, tmp_path: Path) -> None:
    """Once they are old enough; a result never is."""
    write(tmp_path, older)
    half = record_file(tmp_path, CELL).with_name(f".{CELL}.json.0123456789abcdef")
    half.touch()
    assert leftovers(tmp_path, older_than=60) == []
    for path in half.parent.iterdir():
        os.utime(path, (0, 0))
    assert leftovers(tmp_path, older_than=60) == [half]
