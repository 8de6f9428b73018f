"""Opens and reads data files; refuses pipes, devices and other special files, which could block or never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

__all__ = ["open_regular", "read_bounded", "read_text"]

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""The paths of streams that are open already."""

_MOST_TEXT = 2**26


def open_regular(path: Path | str) -> IO[bytes]:
    """Opens a file to read its bytes; never blocks.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be opened, or is a folder, a pipe, a socket or a device; the message says which.
    """
    return os.fdopen(_open(path)[0], "rb")


def read_bounded(path: Path | str, most: int) -> bytes:
    """Reads a whole file; never blocks.

    Args:
        path: The file.
        most: The largest number of bytes.

    Raises:
        OSError: The file cannot be opened, is no regular file, or is larger; the message says which.
    """
    # Few system calls: a report reads two files for each cell.
    descriptor, size = _open(path)
    try:
        content = b"" if size > most else os.read(descriptor, size + 1)
        # One call may read less than it was asked for, and files of the system have no size.
        while 0 < len(content) <= most and len(content) != size and (more := os.read(descriptor, 2**20)):
            content += more
    finally:
        os.close(descriptor)
    if max(size, len(content)) > most:
        raise OSError(f"it has more than {most:,} bytes")
    return content


def read_text(path: Path | str) -> str:
    """Reads a text file in UTF-8 that the user named, such as a suite or a table.

    A stream that the shell has opened, as in ``--config <(command)``, is read to its end. A pipe with a name is refused: it
    may never have a writer.

    Args:
        path: The file.

    Raises:
        OSError: As for :func:`read_bounded`; the file may have 64 MiB.
        UnicodeDecodeError: It is not UTF-8.
    """
    if not os.fspath(path).startswith(_STREAMS):
        return read_bounded(path, _MOST_TEXT).decode("utf-8")
    with open(path, "rb") as file:  # noqa: PTH123 - a stream, not a file
        content = file.read(_MOST_TEXT + 1)
    if len(content) > _MOST_TEXT:
        raise OSError(f"it has more than {_MOST_TEXT:,} bytes")
    return content.decode("utf-8")


def _open(path: Path | str) -> tuple[int, int]:
    """A descriptor of a regular file, and the file's size; see :func:`open_regular`."""
    # Without O_NONBLOCK the opening of a pipe would wait for its writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    number = os.open(path, flags)
    status = os.fstat(number)
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        os.close(number)
        raise OSError(f"it is {_KINDS.get(kind, 'something else')}, not a file")
    return number, status.st_size
