from __future__ import annotations

import os
from pathlib import Path

import pytest

from robustbench_cli.core import names_file
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.names_file import read_names


def test_names_are_the_lines_of_a_file(tmp_path: Path) -> None:
    """In their order, as an editor on any system saves them."""
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffcat\r\ngreat gray owl \r\nÉpagneul\r\n\r\n".encode())
    assert read_names(path) == ("cat", "great gray owl", "Épagneul")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\n\ndog\n", "line 2 is empty: give one class name per line"),
        (b"", "has 0 names: give one class name per line, at least 1"),
        (b"\xff\xfe\x00", "is no text in UTF-8"),
        (b"cat\n" * 5, r"cannot be read .it has more than 19 bytes.: give a text file with one class name per line"),
    ],
)
def test_a_file_with_a_mistake(tmp_path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty line would shift the numbers of the names after it."""
    monkeypatch.setattr(names_file, "_LARGEST_LIST", 19)
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_names(path, kind="class name")


def test_a_file_that_is_missing_and_a_pipe(tmp_path: Path) -> None:
    """The line says what the file has to be; a pipe does not block."""
    with pytest.raises(UserError, match=r"cannot be read .No such.*: give a text file with one name per line"):
        read_names(tmp_path / "names.txt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"cannot be read .it is a pipe, not a file.: give a text file"):
        read_names(tmp_path / "pipe")
