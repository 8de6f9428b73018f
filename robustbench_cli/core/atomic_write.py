"""Writes files atomically: a reader sees the old file or the whole new one, never a part."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from robustbench_cli.core.errors import UserError

__all__ = ["display_path", "ensure_writable", "stale_temporary_files", "write_all_atomically", "write_atomically"]

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that readers see the old content or the whole new content, also after a crash.

    The content is written to a temporary file in the same folder and flushed to the disk. The temporary file is then
    renamed in one step. If the file system supports it, the temporary file has no name before that, unless there are several
    files. Temporary files that killed writers of the same path have left behind are removed.

    Args:
        path: The file to write. Missing parent folders are created. A symbolic link stays, and its target is written.
        content: The whole content.

    Raises:
        UserError: The file cannot be written.
    """
    # What a link leads to is written. A link to itself leads nowhere, and is replaced; Path.resolve would raise an error.
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"cannot write {path}: it is a pipe or a device, not a file; choose another name")
    write_all_atomically(path.parent, {path.name: content})


def write_all_atomically(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes several files of a folder, each as :func:`write_atomically` does, and waits for the disk once.

    After a crash, a file is there only if those before it are.

    Args:
        folder: The folder, which is created.
        files: The content of each file by its name, in the order in which they appear. As many are open at once.

    Raises:
        UserError: A file cannot be written. Then none of them has changed, unless a file could not be renamed.
    """
    if not files:
        return
    path = folder / next(iter(files))
    together = len(files) > 1 and _flush_of_file_systems() is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        abandoned = _temporary_files(folder.absolute())
        with ExitStack() as stack:
            temporaries: dict[Path, Path] = {}
            stack.callback(_remove_all, temporaries)
            for name, content in files.items():
                path = folder / name
                _remove_abandoned(abandoned.get(name, ()))
                temporary = folder / f".{name}.{secrets.token_hex(8)}"
                temporaries[temporary] = path
                stack.enter_context(_temporary_file(temporary, content, flush=not together))
            if together:
                _flush_file_system(folder)
            for temporary, path in [*temporaries.items()]:
                temporary.replace(path)
                del temporaries[temporary]
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a writable location") from None


@cache
def _flush_of_file_systems() -> Callable[[int], int] | None:
    """The system's ``syncfs``, which Python does not have; ``None`` where there is none (macOS, Windows)."""
    import ctypes

    try:
        function: Callable[[int], int] = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, TypeError, OSError):
        return None
    return function


def _flush_file_system(folder: Path) -> None:
    """Waits until everything that was written to a folder's file system is on the disk.

    Raises:
        OSError: It cannot be written.
    """
    import ctypes

    flush = _flush_of_file_systems()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if flush is None or flush(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


@contextmanager
def _temporary_file(temporary: Path, content: bytes, *, flush: bool) -> Iterator[None]:
    """A file with this content. It is locked inside the context, so that no other writer removes it as abandoned.

    Args:
        temporary: Its path.
        content: The content.
        flush: Whether to wait until it is on the disk.
    """
    # Files without a name leave nothing if the process dies. They take most of the time of many files that wait for the disk
    # together, and those have their names soon.
    descriptor = _open_unnamed(temporary.parent) if flush else None
    if descriptor is not None:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - the file has no path
            _fill(file, content, flush=flush)
            if _link(descriptor, temporary):
                yield
                return
    with temporary.open("xb") as file:
        if _fill(file, content, flush=flush):
            yield
            return
    # Without a lock there is no reason to keep the file open, and Windows does not rename an open file.
    yield


def _open_unnamed(folder: Path) -> int | None:
    """Opens a new file without a name, which vanishes if the process dies; ``None`` if that is not supported."""
    try:
        return os.open(folder, os.O_WRONLY | os.O_TMPFILE, 0o666)
    except (OSError, AttributeError):
        # If the folder itself is the problem, opening a named file in it reports that.
        return None


def _link(descriptor: int, path: Path) -> bool:
    """Gives a name to an unnamed file; returns whether that is supported."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # os.link follows the symbolic link in /proc only if it gets a folder's descriptor.
        os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder)
    except OSError:
        return False
    finally:
        os.close(folder)
    return True


def _fill(file: BinaryIO, content: bytes, *, flush: bool) -> bool:
    """Writes the content, to the disk if asked; returns whether the file is locked."""
    locked = False
    # On a file system without locks, abandoned files stay.
    with suppress(OSError):
        locked = _lock(file)
    file.write(content)
    file.flush()
    if flush:
        os.fsync(file.fileno())
    return locked


def _lock(file: BinaryIO) -> bool:
    """Locks a file; returns ``False`` on a platform without such locks (Windows).

    Raises:
        OSError: Another process has locked the file, or the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        return False
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def _remove_all(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _remove_abandoned(temporaries: Iterable[Path]) -> None:
    """Removes temporary files that killed processes left while writing a path.

    A file is abandoned if no process holds its lock.
    """
    for temporary in temporaries:
        # Locking fails if the writer is alive, and opening fails if the file is gone by now.
        with suppress(OSError):
            if temporary.is_file() and not temporary.is_symlink():
                with temporary.open("rb") as file:
                    if _lock(file):
                        temporary.unlink(missing_ok=True)


@cache
def _temporary_files(folder: Path) -> dict[str, list[Path]]:
    """The temporary files in a folder when this process first writes there, by the name of the file to be written.

    A store has very many files: listing them at each write would take the square of their number.
    """
    temporary: defaultdict[str, list[Path]] = defaultdict(list)
    with os.scandir(folder) as entries:
        for entry in entries:
            if match := _TEMPORARY.fullmatch(entry.name):
                temporary[match[1]].append(folder / entry.name)
    return dict(temporary)


def stale_temporary_files(folder: Path, *, older_than: float) -> list[Path]:
    """The temporary files that killed processes left in a folder.

    Args:
        folder: Any folder.
        older_than: Seconds; another process may still be writing younger files.
    """
    stale = []
    for path in sorted(folder.glob(".*")):
        # Another process may have renamed or removed the file since the folder was listed.
        with suppress(FileNotFoundError):
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime >= older_than:
                stale.append(path)
    return stale


def ensure_writable(folder: Path) -> None:
    """Creates a folder and writes a test file, to fail now and not after hours of computation.

    Raises:
        UserError: The folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; choose a writable location") from None


def display_path(path: Path) -> str:
    """A path as valid Unicode, to store and to print; bytes that are not UTF-8 become backslash escapes."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")
