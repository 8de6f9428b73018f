"""Files of weights, read and hashed once per process."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from pathlib import Path

from robustbench_cli.benchmarks.checkpoints.weights_file import StateDict, read_bytes, read_metadata, read_tensors

__all__ = ["FileState", "OpenedFile", "file_state", "open_file"]

_MOST_FILES = 2
"""Files whose tensors stay in memory: a model and its surrogate, or its teacher."""

_CLOCK_TICK = 50_000_000
"""Nanoseconds. A file system may give two writes within this time the same modification time."""

FileState = tuple[str, int, int, int, int, int]
"""The resolved path, the device, the inode, the size, and the times of the last change of the content and of the inode.

A changed file has another state: a program may set the modification time, but not the time of the change of the inode.
"""

_opened: OrderedDict[FileState, OpenedFile] = OrderedDict()


class OpenedFile:
    """The content of a file of weights.

    Args:
        data: The bytes of the file. They are released once the tensors are read.

    Attributes:
        sha256: Of the bytes.
        metadata: Of a safetensors file; ``None`` for a file of another kind.
    """

    def __init__(self, data: bytes) -> None:
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.metadata = read_metadata(data)
        self._data = data
        self._tensors: StateDict | None = None

    def tensors(self, path: Path) -> StateDict:
        """The tensors of the file, which the caller must not change.

        Args:
            path: The file's name, for messages.

        Raises:
            UserError: The file is damaged, would run code when loaded, or has no state dict.
        """
        if self._tensors is None:
            self._tensors = read_tensors(self._data, path)
            self._data = b""
        return self._tensors


def file_state(path: Path) -> FileState | None:
    """The state of a file; ``None`` if it is missing, or if it changed so recently that a second change could hide.

    Args:
        path: The file.
    """
    try:
        status = path.stat()
        resolved = str(path.resolve())
    except (OSError, ValueError):
        return None
    if abs(time.time_ns() - status.st_mtime_ns) < _CLOCK_TICK:
        return None
    return resolved, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def open_file(path: Path) -> OpenedFile:
    """Opens a file of weights, or returns it from the cache if it has not changed.

    Args:
        path: The file.

    Raises:
        UserError: The file is missing or empty, a web page, or a pointer of git-lfs.
    """
    state = file_state(path)
    if state is not None and state in _opened:
        _opened.move_to_end(state)
        return _opened[state]
    file = OpenedFile(read_bytes(path))
    # A file that changed while it was read is not cached under its old state.
    if state is not None and state == file_state(path):
        _opened[state] = file
        while len(_opened) > _MOST_FILES:
            _opened.popitem(last=False)
    return file
