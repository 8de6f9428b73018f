"""The size to which an archive may unpack."""

from __future__ import annotations

import zipfile

__all__ = ["ALWAYS_ALLOWED", "excessive_size"]

ALWAYS_ALLOWED = 2**24
"""Bytes that any file may unpack or expand to."""

_MOST_UNPACKED = 2
"""Times the size of an archive. PyTorch and skops pack nothing, and weights that someone has packed shrink by a tenth."""


def excessive_size(archive: zipfile.ZipFile, size: int) -> str | None:
    """Says that an archive unpacks to much more than its size, in words that follow its name; ``None`` if it does not.

    Args:
        archive: The archive.
        size: Its size in bytes.
    """
    unpacked = sum(record.file_size for record in archive.infolist())
    if unpacked <= max(_MOST_UNPACKED * size, ALWAYS_ALLOWED):
        return None
    return f"has {size:,} bytes and unpacks to {unpacked:,}"
