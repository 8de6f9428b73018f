"""Finds the files in an uncompressed tar archive without unpacking it, so that any of them can be read on its own."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.regular_file import open_regular

__all__ = ["TarMember", "members"]

LARGEST_MEMBER = 2**28
"""The most bytes of a file in an archive: an image of as many pixels as are decoded is smaller."""

LARGEST_HEADER = 2**17
"""The most bytes of the headers of a file in an archive, which have its name and other metadata."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar archive; nothing is written to the disk, so its name cannot lead anywhere.

    Attributes:
        archive: The path of the archive.
        name: Its name in the archive.
        offset: Where its content begins, in bytes.
        size: The length of its content, in bytes.
        is_file: Whether it is a regular file: no link, sparse file or device. Only such a file can be opened.
    """

    archive: str
    name: str
    offset: int
    size: int
    is_file: bool = True

    def __str__(self) -> str:
        return f"{self.name} in {self.archive}"

    def open(self) -> IO[bytes]:
        """Opens its content."""
        with open_regular(self.archive) as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


def members(path: Path) -> Iterator[TarMember]:
    """The members of a tar archive except for folders, in its order.

    Args:
        path: The archive, uncompressed.

    Raises:
        UserError: The file is no such archive, a member is too large, or the archive was cut short.
    """
    try:
        with open_regular(path) as file:
            length = file.seek(0, io.SEEK_END)
            file.seek(0)
            headers = _Headers(file)
            with _damage():
                archive = tarfile.open(fileobj=headers, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
            with archive:
                yield from _members(archive, headers, path, length)
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"{path} cannot be read as a tar archive ({one_line(error)}): give an uncompressed one (gunzip unpacks .tar.gz)"
        ) from None


class _Headers:
    """An archive from which tarfile can read only headers, of a bounded size.

    Attributes:
        left: How many bytes may be read until the next file is found.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.left = LARGEST_HEADER

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"the header of a file has more than {LARGEST_HEADER:,} bytes")
        self.left -= size
        return self._file.read(size)


@contextmanager
def _damage() -> Iterator[None]:
    """Turns any error that a damaged archive causes inside tarfile into tarfile's own ``ReadError``."""
    try:
        yield
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError, MemoryError) as error:
        raise tarfile.ReadError(one_line(error)) from None


def _next(archive: tarfile.TarFile, headers: _Headers) -> tarfile.TarInfo | None:
    """The next member; each one begins behind the one before."""
    headers.left = LARGEST_HEADER
    with _damage():
        member = archive.next()
    if member is not None and (member.size < 0 or archive.offset <= member.offset):
        raise tarfile.ReadError(f"the size of {member.name} is negative")
    return member


def _members(archive: tarfile.TarFile, headers: _Headers, path: Path, length: int) -> Iterator[TarMember]:
    last = ""
    try:
        # One at a time: a loop over the archive keeps every member in memory.
        while (member := _next(archive, headers)) is not None:
            archive.members.clear()  # type: ignore[attr-defined]
            last = member.name
            if member.offset_data + member.size > length and not member.issparse():
                raise UserError(f"{path} is cut short in its member {last}: get it again")
            if member.size > LARGEST_MEMBER:
                raise UserError(f"{path}: {last} has {member.size:,} bytes: a file may have {LARGEST_MEMBER:,}")
            if not member.isdir():
                is_file = member.isreg() and not member.issparse()
                yield TarMember(str(path), member.name, member.offset_data, member.size, is_file)
    except tarfile.ReadError as error:
        if not last:
            raise
        raise UserError(f"{path} is cut short or damaged after its member {last} ({one_line(error)})") from None
    # A complete archive ends with blocks of zeros, where tarfile stops; at a cut it stops as if all were well.
    headers.seek(archive.offset)
    headers.left = LARGEST_HEADER
    if headers.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise UserError(f"{path} is cut short after its member {last or '(none)'}: get it again")
