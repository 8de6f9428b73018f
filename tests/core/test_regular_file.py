from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from robustbench_cli.core.regular_file import open_regular, read_bounded, read_text


def test_a_file_is_read(tmp_path: Path) -> None:
    """Through a link too."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"


@pytest.mark.parametrize(("kind", "name"), [("folder", "a folder"), ("pipe", "a pipe"), ("device", "a device")])
def test_special_files_are_refused_without_waiting(tmp_path: Path, kind: str, name: str) -> None:
    """A pipe that nobody writes to would block."""
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")
    for read in (open_regular, lambda path: read_bounded(path, 9)):
        with pytest.raises(OSError, match=f"it is {name}, not a file"):
            read(path)


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system does not even open it."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(OSError, match=r"No such device|socket"):
            open_regular("socket")


def test_a_larger_file_is_refused(tmp_path: Path) -> None:
    """One byte more than allowed."""
    (tmp_path / "file").write_bytes(b"content")
    assert read_bounded(tmp_path / "file", 7) == b"content"
    with pytest.raises(OSError, match="it has more than 6 bytes"):
        read_bounded(tmp_path / "file", 6)


def test_a_stream_of_the_shell_is_read_as_text(tmp_path: Path) -> None:
    """A pipe that is open already ends; a pipe with a name may never have a writer, and is refused."""
    reader, writer = os.pipe()
    os.write(writer, "naïve".encode())
    os.close(writer)
    assert read_text(f"/dev/fd/{reader}") == "naïve"
    os.close(reader)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe, not a file"):
        read_text(tmp_path / "pipe")


def test_a_file_with_holes_is_not_read(tmp_path: Path) -> None:
    """Its size is known before any memory is taken."""
    with (tmp_path / "file").open("wb") as file:
        file.truncate(50 * 2**30)
    with pytest.raises(OSError, match="it has more than 9 bytes"):
        read_bounded(tmp_path / "file", 9)
    with pytest.raises(OSError, match="it has more than 67,108,864 bytes"):
        read_text(tmp_path / "file")
