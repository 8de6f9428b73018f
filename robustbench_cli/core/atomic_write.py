"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from robustbench_cli.core.errors import UserError

try:
    import fcntl
except ImportError:
    # Windows has no such module.
    fcntl = None  # type: ignore[assignment]

__all__ = ["display_path", "ensure_writable", "is_temporary", "write_atomically"]

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old one, or none, or the whole new one; also after a crash.

    The content goes to a temporary file in the same folder, is flushed to the disk, and takes the name in one step. The
    temporary file has no name before that where the file system can do so; one that a killed writer of the same file
    has left is removed.

    Raises:
        UserError: The place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
        try:
            with _written(temporary, content):
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; name a place that can be written") from None


@contextmanager
def _written(temporary: Path, content: bytes) -> Iterator[None]:
    """A file with some content, which nobody else takes for a dead writer's for as long as the block lasts."""
    descriptor = _unnamed(temporary.parent)
    if descriptor is not None:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - it has no path
            _fill(file, content)
            if _named(descriptor, temporary):
                yield
                return
    with temporary.open("xb") as file:
        _fill(file, content)
        yield


def _unnamed(folder: Path) -> int | None:
    """A new file without a name, which vanishes with its writer; ``None`` where there is no such thing."""
    try:
        return os.open(folder, os.O_WRONLY | os.O_TMPFILE, 0o666)
    except (OSError, AttributeError):
        # Whatever is wrong with the folder, to open a file by its name will tell.
        return None


def _named(descriptor: int, path: Path) -> bool:
    """Gives a file without a name one; says whether that can be done here."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # With a folder's descriptor, the link of /proc is followed to the file.
        os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder)
    except OSError:
        return False
    finally:
        os.close(folder)
    return True


def _fill(file: BinaryIO, content: bytes) -> None:
    # File systems without locks keep what is left.
    with suppress(OSError):
        _lock(file)
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _lock(file: BinaryIO) -> None:
    """Locks a file for this process.

    Raises:
        OSError: Another process has it locked, or the system has no such locks.
    """
    if fcntl is None:
        raise OSError("this system has no file locks")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_left(path: Path) -> None:
    """Removes what killed writers of a file have left: the temporary files that no living process has locked."""
    start = f".{path.name}."
    with os.scandir(path.parent) as entries:
        left = [Path(entry.path) for entry in entries if entry.name.startswith(start)]
    for temporary in left:
        found = _TEMPORARY.fullmatch(temporary.name)
        # A lock that cannot be had is a living writer's; of one that is gone meanwhile there is nothing to remove.
        with suppress(OSError):
            if found is not None and found[1] == path.name and temporary.is_file() and not temporary.is_symlink():
                with temporary.open("rb") as file:
                    _lock(file)
                    temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a file has the name of one that :func:`write_atomically` has not finished."""
    return _TEMPORARY.fullmatch(path.name) is not None


def ensure_writable(folder: Path) -> None:
    """Makes a folder and tries whether it can be written, to fail now rather than after hours of computation.

    Raises:
        UserError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; name a place that can be written") from None


def display_path(path: Path) -> str:
    """A path as it can be stored and shown: bytes of it that are not UTF-8 stand there as a backslash and their number."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")
