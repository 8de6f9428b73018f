"""Files and folders of weights, read and hashed once per process."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from pathlib import Path

from robustbench_cli.benchmarks.weights.folder import INDEXES, weight_files
from robustbench_cli.benchmarks.weights.weights_file import StateDict, read_bytes, read_metadata, read_tensors
from robustbench_cli.core.errors import UserError

__all__ = ["FileState", "OpenedFile", "file_state", "open_file"]

_MOST_FILES = 2
"""Files whose tensors stay in memory: a model and its surrogate, or its teacher."""

_CLOCK_TICK = 50_000_000
"""Nanoseconds. A file system may give two writes within this time the same modification time."""

FileState = tuple[Hashable, ...]
"""The resolved path, the device, the inode, the size, and the times of the last change of the content and of the inode.

A changed file has another state: a program may set the modification time, but not the time of the change of the inode. The
state of a folder is that of its weight files.
"""

_opened: OrderedDict[FileState, OpenedFile] = OrderedDict()


class OpenedFile:
    """The content of a file of weights, or of the shards in a folder.

    Args:
        contents: The bytes of each file, by path. They are released once the tensors are read.

    Attributes:
        sha256: Of the bytes; of several files, of their names and hashes.
        metadata: Of a single safetensors file; ``None`` for other files.
    """

    def __init__(self, contents: Mapping[Path, bytes]) -> None:
        hashes = {path.name: hashlib.sha256(data).hexdigest() for path, data in contents.items()}
        listed = "".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
        self.sha256 = next(iter(hashes.values())) if len(hashes) == 1 else hashlib.sha256(listed.encode()).hexdigest()
        self.metadata = read_metadata(next(iter(contents.values()))) if len(contents) == 1 else None
        self._contents = dict(contents)
        self._tensors: StateDict | None = None

    def tensors(self, path: Path) -> StateDict:
        """The tensors of the file or of all shards, which the caller must not change.

        Args:
            path: The name of the file or of the folder, for messages.

        Raises:
            UserError: A file is damaged, would run code when loaded, or has no state dict; or two shards have a tensor each
                of the same name.
        """
        if self._tensors is None:
            self._tensors = self._read(path)
            self._contents = {}
        return self._tensors

    def _read(self, path: Path) -> StateDict:
        if len(self._contents) == 1:
            ((file, data),) = self._contents.items()
            return read_tensors(data, file if path.is_dir() else path)
        tensors = StateDict({})
        for file, data in self._contents.items():
            for name, tensor in read_tensors(data, file).items():
                if name in tensors:
                    raise UserError(f"{file} has the tensor {name} of another shard again: download {path} again")
                tensors[name] = tensor
        return tensors


def file_state(path: Path) -> FileState | None:
    """The state of a file; ``None`` if it is missing, or if it changed so recently that a second change could hide.

    Args:
        path: The file or the folder.
    """
    if path.is_dir():
        try:
            files = [
                *weight_files(path),
                *(path / name for name in (*INDEXES, "config.json") if (path / name).is_file()),
            ]
        except UserError:
            return None
        states = [file_state(file) for file in files]
        return None if None in states else tuple(states)
    try:
        status = path.stat()
        resolved = str(path.resolve())
    except (OSError, ValueError):
        return None
    if abs(time.time_ns() - status.st_mtime_ns) < _CLOCK_TICK:
        return None
    return resolved, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def open_file(path: Path) -> OpenedFile:
    """Opens a file or a folder of weights, or returns it from the cache if it has not changed.

    Args:
        path: The file, or a folder as the Hub keeps it.

    Raises:
        UserError: A file is missing or empty, a web page, or a pointer of git-lfs; or the folder has no weights.
    """
    state = file_state(path)
    if state is not None and state in _opened:
        _opened.move_to_end(state)
        return _opened[state]
    file = OpenedFile({part: read_bytes(part) for part in (weight_files(path) if path.is_dir() else [path])})
    # A file that changed while it was read is not cached under its old state.
    if state is not None and state == file_state(path):
        _opened[state] = file
        while len(_opened) > _MOST_FILES:
            _opened.popitem(last=False)
    return file
