from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from robustbench_cli.benchmarks.store.record_folder import RecordFolder
from robustbench_cli.core.errors import UserError


class Note(BaseModel):
    """A record."""

    cell: str
    value: int


NOTES = RecordFolder(folder="notes", kind=Note, cell_of=lambda note: note.cell, noun="note", redo="take it again")

A, B = Note(cell="a" * 20, value=5), Note(cell="b" * 20, value=7)


def test_a_merge_copies_what_is_missing(tmp_path: Path) -> None:
    """Nothing that is there is overwritten."""
    changed = Note(cell=A.cell, value=9)
    NOTES.write(tmp_path, changed)
    NOTES.write(tmp_path / "other", A)
    NOTES.write(tmp_path / "other", B)
    assert NOTES.take(tmp_path, tmp_path / "other", damaged=pytest.fail) == 1
    assert list(NOTES.stored(tmp_path, damaged=pytest.fail)) == [changed, B]


@pytest.mark.parametrize(("before", "after"), [(b'"value": 5', b'"value": 6'), (b"\n}\n", b"")])
def test_a_damaged_file_is_named_and_skipped(tmp_path: Path, before: bytes, after: bytes) -> None:
    """One error for each, and the other records are read."""
    NOTES.write(tmp_path, A)
    NOTES.write(tmp_path, B)
    path = NOTES.file(tmp_path, A.cell)
    assert before in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(before, after))
    errors: list[UserError] = []
    assert list(NOTES.stored(tmp_path, damaged=errors.append)) == [B]
    assert [str(error) for error in errors] == [
        f"{path} is damaged, its content is not what was stored: remove {path} to take it again"
    ]


def test_a_file_with_the_name_of_another_cell(tmp_path: Path) -> None:
    """It is an error that names the cell that it holds."""
    NOTES.write(tmp_path, A)
    path = NOTES.file(tmp_path, A.cell).rename(NOTES.file(tmp_path, "c" * 20))
    with pytest.raises(UserError, match=f"{path} has the cell {A.cell}: remove it, or restore its name"):
        NOTES.read(path)


def test_half_written_files_are_leftovers(tmp_path: Path) -> None:
    """Once they are old enough; a record never is."""
    NOTES.write(tmp_path, A)
    half = NOTES.file(tmp_path, A.cell).with_name(f".{A.cell}.json.0123456789abcdef")
    half.touch()
    assert NOTES.leftovers(tmp_path, older_than=60) == []
    for path in half.parent.iterdir():
        os.utime(path, (0, 0))
    assert NOTES.leftovers(tmp_path, older_than=60) == [half]
