"""Reads ``.npz`` files of any origin safely: it unpickles nothing, and knows the size of an array before it unpacks it."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import prod
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

__all__ = ["Array", "BadArraysError", "DifferentArraysError", "PickledError", "read_arrays", "read_stacked"]

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

_SMALL = 2**24
"""The most bytes of a file that is read at once."""

_CACHED = 2**17
"""The most bytes of an array that is unpacked once for all files that have it: the labels, say, are the same in many."""

_END = struct.Struct("<4s4H2LH")
"""The end of an archive without a comment: signature, disks, numbers of members, size and offset of the directory."""

_MEMBER = struct.Struct("<4s4x2H4x3L3H8xL")
"""A member in the directory: signature, flags, compression, checksum, sizes, three lengths and its offset; its name, its
extra fields and its comment follow.
"""

_END_SIGNATURE, _MEMBER_SIGNATURE = b"PK\x05\x06", b"PK\x01\x02"

_LENGTHS = struct.Struct("<26xHH")
"""The local header of a member: the lengths of its name and of its extra field, which follow."""

_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4}
"""The bytes of the length of a header, by the version of NumPy's format."""

_LONGEST_HEADER = 2**14
"""More bytes than NumPy accepts in a header."""


class BadArraysError(ValueError):
    """The arrays of a file cannot be read; the message is a clause with the reason."""


class DifferentArraysError(BadArraysError):
    """Files cannot be stacked, as their arrays have different names, shapes or types."""


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
    with _named_errors():
        content = _small_content(file)
        members = None if content is None else _small_members(content)
        if members is not None:
            return {
                name: _small_array(packed, name) if wanted is None or name in wanted else np.empty(0)
                for name, packed in members.items()
            }
        with zipfile.ZipFile(file) as archive:
            arrays = [member for member in archive.infolist() if member.filename.endswith(_SUFFIX)]
            # If two have one name the last counts, as for NumPy.
            by_name = {member.filename.removesuffix(_SUFFIX): member for member in arrays}
            return {
                name: _array(archive, member, name) if wanted is None or name in wanted else np.empty(0)
                for name, member in by_name.items()
            }


def read_stacked(files: Sequence[bytes], wanted: Collection[str]) -> dict[str, Array]:
    """The arrays of several ``.npz`` files that have the same arrays, by name; the first dimension of each is the files.

    Args:
        files: The content of each file; at least one.
        wanted: The names of the arrays to unpack. Other arrays of the files are empty in the result.

    Raises:
        DifferentArraysError: Two files have different arrays.
        BadArraysError: As for :func:`read_arrays`.
    """
    with _named_errors():
        members = [_small_members(content) for content in files]
        small = [entries for entries in members if entries is not None]
        names = small[0].keys() if len(small) == len(files) else set[str]()
        if names and all(entries.keys() == names for entries in small):
            return {
                name: _stacked([entries[name] for entries in small], name) if name in wanted else np.empty(0)
                for name in names
            }
        arrays = [read_arrays(io.BytesIO(content), wanted) for content in files]
        _refuse_different("the files", [sorted(entries) for entries in arrays])
        for name in arrays[0]:
            _refuse_different(f"'{name}'", [(entries[name].shape, entries[name].dtype) for entries in arrays])
        return {name: np.stack([entries[name] for entries in arrays]) for name in arrays[0]}


@contextmanager
def _named_errors() -> Iterator[None]:
    """Raises a :class:`BadArraysError` instead of any other exception of a damaged archive."""
    try:
        yield
    except BadArraysError:
        raise
    except MemoryError:
        raise BadArraysError("there is not enough memory for it") from None
    except Exception as error:
        # A damaged archive can raise any exception.
        raise BadArraysError(f"it is cut off or damaged, {type(error).__name__}") from error


def _refuse_different(name: str, kinds: Sequence[object]) -> None:
    """Refuses files whose arrays are not of one kind."""
    for kind in kinds:
        if kind != kinds[0]:
            raise DifferentArraysError(f"{name} differ: {kinds[0]} and {kind}")


_Packed = tuple[bytes, int, int, int]
"""A member of an archive: its content as it is in the archive, how it is compressed, its size and its checksum."""


def _small_content(file: IO[bytes]) -> bytes | None:
    """The content of a small file; ``None`` for a large one."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size > _SMALL:
        return None
    content = file.read()
    file.seek(0)
    return content


def _small_members(content: bytes) -> dict[str, _Packed] | None:
    """The arrays of an archive of small members as NumPy writes it, by name; ``None`` for any other archive.

    ``zipfile`` takes many times as long, and a report reads ten arrays for each cell.
    """
    if len(content) < _END.size:
        return None
    signature, _, _, here, number, length, start, comment = _END.unpack_from(content, len(content) - _END.size)
    if signature != _END_SIGNATURE or comment or here != number:
        return None
    if start + length + _END.size != len(content):
        return None
    members: dict[str, _Packed] = {}
    for _ in range(number):
        member = _MEMBER.unpack_from(content, start)
        signature, flags, compression, crc, compressed, size, name_length, extra_length, comment_length, offset = member
        is_plain = signature == _MEMBER_SIGNATURE and not flags and compression in _SIMPLE
        if not is_plain or size > _CHUNK or compressed > _CHUNK:
            return None
        start += _MEMBER.size
        name = _array_name(content[start : start + name_length])
        start += name_length + extra_length + comment_length
        if name is not None:
            name_length, extra_length = _LENGTHS.unpack_from(content, offset)
            first = offset + _LENGTHS.size + name_length + extra_length
            members[name] = content[first : first + compressed], compression, size, crc
    return members


@lru_cache(maxsize=256)
def _array_name(member: bytes) -> str | None:
    """The name of the array in a member; ``None`` if the member is something else."""
    name = member.decode("ascii")
    return name.removesuffix(_SUFFIX) if name.endswith(_SUFFIX) else None


def _small_array(packed: _Packed, name: str) -> Array:
    """A small array of an archive."""
    content = _unpacked(packed)
    shape, order, dtype, start = _checked_header(content, name, len(content))
    return np.ndarray(shape, dtype, bytearray(content[start:]), order=order)


def _stacked(members: Sequence[_Packed], name: str) -> Array:
    """A small array of several archives; without a copy for each of them."""
    contents = [_unpacked(packed) for packed in members]
    shape, order, dtype, start = _checked_header(contents[0], name, len(contents[0]))
    header = contents[0][:start]
    if all(len(content) == len(contents[0]) and content.startswith(header) for content in contents):
        values = bytearray().join([memoryview(content)[start:] for content in contents])
    else:
        headers = [_checked_header(content, name, len(content)) for content in contents]
        _refuse_different(f"'{name}'", [entry[:3] for entry in headers])
        values = bytearray().join([content[start:] for content, (*_, start) in zip(contents, headers, strict=True)])
    if order == "C":
        return np.ndarray((len(members), *shape), dtype, values)
    stacked = np.ndarray((len(members), *shape[::-1]), dtype, values)
    return stacked.transpose(0, *range(stacked.ndim - 1, 0, -1))


def _unpacked(packed: _Packed) -> bytes:
    """The content of a small member; what many files have compressed is unpacked once."""
    _, compression, size, _ = packed
    is_kept = compression == zipfile.ZIP_DEFLATED and size <= _CACHED
    return _cached_unpacked(packed) if is_kept else _checked_unpacked(packed)


def _checked_unpacked(packed: _Packed) -> bytes:
    content, compression, size, crc = packed
    if compression == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    if len(content) != size or zlib.crc32(content) != crc:
        raise zipfile.BadZipFile
    return content


_cached_unpacked = lru_cache(maxsize=256)(_checked_unpacked)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Array:
    with archive.open(member) as stream:
        start = stream.read(_CHUNK)
        shape, order, dtype, offset = _checked_header(start, name, member.file_size)
        size = member.file_size - offset
        if size > HARMLESS:
            _refuse_too_large(member, name, size)
        content = bytearray(size)
        view = memoryview(content)
        done = len(start) - offset
        view[:done] = memoryview(start)[offset:]
        for position in range(done, size, _CHUNK):
            view[position : position + _CHUNK] = stream.read(_CHUNK)
    return np.ndarray(shape, dtype, content, order=order)


def _checked_header(
    start: bytes, name: str, length: int
) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any], int]:
    """The header of an array: its shape, order and type, and where its values begin.

    Args:
        start: The first bytes of the array's file.
        name: The array's name.
        length: The number of bytes in the file.

    Raises:
        BadArraysError: The array holds pickled objects, or its size is another one.
    """
    (shape, order, dtype, size), offset = _header(start, name)
    if dtype.hasobject:
        raise PickledError(f"'{name}' holds pickled objects")
    if length - offset != size:
        raise BadArraysError(f"'{name}' has {length - offset} bytes, and its header says shape {shape}, {size} bytes")
    return shape, order, dtype, offset


def _refuse_too_large(member: zipfile.ZipInfo, name: str, size: int) -> None:
    """Refuses an array that was compressed more than images are, or that does not fit into memory."""
    if size > USUAL_RATIO * member.compress_size:
        raise BadArraysError(
            f"'{name}' would unpack from {member.compress_size:,} to {size:,} bytes, more than images do: "
            "if this is right, save it with numpy.savez, not savez_compressed"
        )
    if size > _memory():
        raise BadArraysError(f"'{name}' takes {size / 2**30:,.0f} GiB, more memory than there is")


class _Header(NamedTuple):
    """The header of an array; the size is that of the values in bytes."""

    shape: tuple[int, ...]
    order: Literal["C", "F"]
    dtype: np.dtype[Any]
    size: int


def _header(content: bytes, name: str) -> tuple[_Header, int]:
    """The header of an array, and where its values begin."""
    version = content[npy.MAGIC_LEN - 2], content[npy.MAGIC_LEN - 1]
    if version not in _LENGTH_BYTES or not content.startswith(npy.MAGIC_PREFIX):
        # It raises the error of a file that is no array.
        version = npy.read_magic(io.BytesIO(content[: npy.MAGIC_LEN]))
        raise BadArraysError(f"'{name}' is of version {version[0]}.{version[1]} of NumPy's format")
    start = npy.MAGIC_LEN + _LENGTH_BYTES[version]
    end = start + int.from_bytes(content[npy.MAGIC_LEN : start], "little")
    return _parsed_header(version, content[npy.MAGIC_LEN : min(end, _LONGEST_HEADER)]), end


@lru_cache(maxsize=256)
def _parsed_header(version: tuple[int, int], content: bytes) -> _Header:
    """Parses a header. Most arrays of a store share theirs, and parsing takes longer than unpacking a small array."""
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(io.BytesIO(content))
    return _Header(shape, "F" if is_fortran else "C", dtype, prod(shape) * dtype.itemsize)


def _memory() -> int:
    """The bytes of the machine's memory; a huge number if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
