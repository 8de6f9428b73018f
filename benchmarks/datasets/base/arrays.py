"""Arrays in an ``.npz`` file, whoever made it: nothing is unpickled, and nothing is unpacked before its size is known."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection
from math import prod
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

__all__ = ["Array", "BadArraysError", "PickledError", "read_arrays"]

Array = np.ndarray[Any, np.dtype[Any]]

HARMLESS = 2**26
"""Bytes that an array may unpack to, however small the file is."""

USUAL_RATIO = 100
"""How many times smaller than itself a larger array may be in the file; images pack 1.1 to 20 times."""

_SUFFIX = ".npy"


class BadArraysError(ValueError):
    """The file holds no arrays that can be read; the message says why, in a clause."""


class PickledError(BadArraysError):
    """An array holds pickled objects, which could run code."""


def read_arrays(file: IO[bytes], wanted: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays of an ``.npz`` file by name.

    Args:
        file: Its content, which can be sought.
        wanted: The names of those that are needed, as far as they are there; all where not given. The others are not
            unpacked, and are empty in what is returned.

    Raises:
        BadArraysError: It is no archive of whole arrays, one of them is too large, or holds objects.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = [each for each in archive.infolist() if each.filename.endswith(_SUFFIX)]
            # Of two of one name the last counts, as for NumPy.
            named = {each.filename.removesuffix(_SUFFIX): each for each in members}
            return {
                name: _array(archive, member, name) if wanted is None or name in wanted else np.empty(0)
                for name, member in named.items()
            }
    except BadArraysError:
        raise
    except MemoryError:
        raise BadArraysError("there is not memory enough for it") from None
    except Exception as error:
        # A damaged archive can end in any exception.
        raise BadArraysError(f"it is cut off or damaged, {type(error).__name__}") from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Array:
    with archive.open(member) as stream:
        shape, _, dtype = _header(stream, name)
        there = member.file_size - stream.tell()
    if dtype.hasobject:
        raise PickledError(f"'{name}' holds pickled objects")
    size = prod(shape) * dtype.itemsize
    if there != size:
        raise BadArraysError(f"'{name}' is said to have the shape {shape}, {size} bytes, and has {there}")
    if size > HARMLESS and size > USUAL_RATIO * member.compress_size:
        raise BadArraysError(
            f"'{name}' would unpack from {member.compress_size:,} to {size:,} bytes, which no images do: "
            "where it is right, save it with numpy.savez, not savez_compressed"
        )
    if size > _memory():
        raise BadArraysError(f"'{name}' takes {size / 2**30:,.0f} GiB, more memory than there is")
    with archive.open(member) as stream:
        array: Array = npy.read_array(stream, allow_pickle=False)
    return array


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The shape, whether it is in Fortran's order, and the type, of an array whose data stay where they are."""
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    raise BadArraysError(f"'{name}' is of version {version[0]}.{version[1]} of NumPy's format")


def _memory() -> int:
    """The bytes of the machine's memory; without end where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63
