"""Reads ``.npz`` files of any origin safely: it unpickles nothing, and knows the size of an array before it unpacks it."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Collection
from functools import lru_cache
from math import prod
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

__all__ = ["Array", "BadArraysError", "PickledError", "read_arrays"]

Array = np.ndarray[Any, np.dtype[Any]]

HARMLESS = 2**26
"""Bytes that an array may unpack to, at any compression."""

USUAL_RATIO = 100
"""The highest compression ratio of a larger array; images have 1.1 to 20."""

_SUFFIX = ".npy"

_CHUNK = 2**20
"""Bytes that are unpacked at once."""

_SIMPLE = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The compressions that NumPy writes."""

_ENCRYPTED = 1
"""The bit of an encrypted member."""

_LENGTHS = struct.Struct("<26xHH")
"""The local header of a member: the lengths of its name and of its extra field, which follow."""

_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4}
"""The bytes of the length of a header, by the version of NumPy's format."""

_LONGEST_HEADER = 2**14
"""More bytes than NumPy accepts in a header."""


class BadArraysError(ValueError):
    """The arrays of a file cannot be read; the message is a clause with the reason."""


class PickledError(BadArraysError):
    """An array holds pickled objects, which could run code."""


def read_arrays(file: IO[bytes], wanted: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays of an ``.npz`` file by name.

    Args:
        file: The file, seekable.
        wanted: The names of the arrays to unpack; all by default. Other arrays of the file are empty in the result.

    Raises:
        BadArraysError: The file is no archive, an array is damaged or too large, or it has pickled objects.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(_SUFFIX)]
            # If two have one name the last counts, as for NumPy.
            by_name = {member.filename.removesuffix(_SUFFIX): member for member in members}
            return {
                name: _array(archive, file, member, name) if wanted is None or name in wanted else np.empty(0)
                for name, member in by_name.items()
            }
    except BadArraysError:
        raise
    except MemoryError:
        raise BadArraysError("there is not enough memory for it") from None
    except Exception as error:
        # A damaged archive can raise any exception.
        raise BadArraysError(f"it is cut off or damaged, {type(error).__name__}") from error


def _array(archive: zipfile.ZipFile, file: IO[bytes], member: zipfile.ZipInfo, name: str) -> Array:
    is_small = member.file_size <= _CHUNK and member.compress_type in _SIMPLE and not member.flag_bits & _ENCRYPTED
    with io.BytesIO(_unpacked(file, member)) if is_small else archive.open(member) as stream:
        start = stream.read(_CHUNK)
        shape, is_fortran, dtype, offset = _header(start, name)
        available = member.file_size - offset
        if dtype.hasobject:
            raise PickledError(f"'{name}' holds pickled objects")
        size = prod(shape) * dtype.itemsize
        if available != size:
            raise BadArraysError(f"'{name}' has {available} bytes, and its header says shape {shape}, {size} bytes")
        if size > HARMLESS:
            _refuse_too_large(member, name, size)
        content = bytearray(size)
        view = memoryview(content)
        done = len(start) - offset
        view[:done] = memoryview(start)[offset:]
        for position in range(done, size, _CHUNK):
            view[position : position + _CHUNK] = stream.read(_CHUNK)
    return np.ndarray(shape, dtype, content, order="F" if is_fortran else "C")


def _unpacked(file: IO[bytes], member: zipfile.ZipInfo) -> bytes:
    """Unpacks a small member. ``zipfile`` takes three times as long, and a report reads ten arrays for each cell."""
    file.seek(member.header_offset)
    file.seek(sum(_LENGTHS.unpack(file.read(_LENGTHS.size))), io.SEEK_CUR)
    content = file.read(member.compress_size)
    if member.compress_type == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.file_size + 1)
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise zipfile.BadZipFile
    return content


def _refuse_too_large(member: zipfile.ZipInfo, name: str, size: int) -> None:
    """Refuses an array that was compressed more than images are, or that does not fit into memory."""
    if size > USUAL_RATIO * member.compress_size:
        raise BadArraysError(
            f"'{name}' would unpack from {member.compress_size:,} to {size:,} bytes, more than images do: "
            "if this is right, save it with numpy.savez, not savez_compressed"
        )
    if size > _memory():
        raise BadArraysError(f"'{name}' takes {size / 2**30:,.0f} GiB, more memory than there is")


def _header(content: bytes, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """The header of an array: its shape, whether it is in Fortran order, its type, and where its values begin."""
    version = npy.read_magic(io.BytesIO(content[: npy.MAGIC_LEN]))
    if version not in _LENGTH_BYTES:
        raise BadArraysError(f"'{name}' is of version {version[0]}.{version[1]} of NumPy's format")
    start = npy.MAGIC_LEN + _LENGTH_BYTES[version]
    end = start + int.from_bytes(content[npy.MAGIC_LEN : start], "little")
    return *_parsed_header(version, content[npy.MAGIC_LEN : min(end, _LONGEST_HEADER)]), end


@lru_cache(maxsize=256)
def _parsed_header(version: tuple[int, int], content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Parses a header. Most arrays of a store share theirs, and parsing takes longer than unpacking a small array."""
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(io.BytesIO(content))


def _memory() -> int:
    """The bytes of the machine's memory; a huge number if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
