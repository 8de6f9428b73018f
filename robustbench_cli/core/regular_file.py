"""Opens and reads data files; refuses pipes, devices and other special files, which could block or never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

__all__ = ["open_regular", "read_bounded"]

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path | str) -> IO[bytes]:
    """Opens a file to read its bytes; never blocks.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be opened, or is a folder, a pipe, a socket or a device; the message says which.
    """
    # Without O_NONBLOCK the opening of a pipe would wait for its writer.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    kind = stat.S_IFMT(os.fstat(number).st_mode)
    if kind != stat.S_IFREG:
        os.close(number)
        raise OSError(f"it is {_KINDS.get(kind, 'something else')}, not a file")
    return os.fdopen(number, "rb")


def read_bounded(path: Path | str, most: int) -> bytes:
    """Reads a whole file; never blocks.

    Args:
        path: The file.
        most: The largest number of bytes.

    Raises:
        OSError: The file cannot be opened, is no regular file, or is larger; the message says which.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"it has more than {most:,} bytes")
    return content
