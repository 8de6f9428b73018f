"""Data sets that torchvision reads, and downloads if they are missing."""

from __future__ import annotations

import socket
import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, SplitName
from robustbench_cli.benchmarks.datasets.base.split import Split, TensorSplit
from robustbench_cli.core.errors import UserError, one_line

__all__ = ["Downloaded"]

# What torchvision raises for files that are missing, cut off or altered, and for a failed download.
_UNREADABLE = (RuntimeError, ValueError, AssertionError, OSError, EOFError, HTTPException)


class Downloaded(Dataset):
    """A data set that a class of torchvision reads.

    Attributes:
        files: The path of torchvision's copy inside ``data_dir``, for messages.
        other_source: Another way to get the data, for messages.
    """

    files: ClassVar[str]
    other_source: ClassVar[str | None] = None

    @abstractmethod
    def open(self, name: SplitName, *, root: Path, download: bool) -> Any:
        """Opens torchvision's data set, with its images as ``data`` and its labels as ``targets`` or ``labels``.

        Args:
            name: The split.
            root: The folder of the data.
            download: Whether to download missing files.
        """

    def load(self, name: SplitName) -> Split:
        try:
            raw = self.open(name, root=self.data_dir, download=False)
        except _UNREADABLE:
            raw = self._download(name)
        images, labels = _tensors(raw)
        return TensorSplit(images, labels, where=f"the {name} images of {self.name}")

    def _download(self, name: SplitName) -> Any:
        # Into a temporary folder first: another process must never find an incomplete archive in data_dir.
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.data_dir, prefix=".download-") as folder, _time_limit(30):
                self.open(name, root=Path(folder), download=True)
                for file in sorted(Path(folder).rglob("*")):
                    target = self.data_dir / file.relative_to(folder)
                    if file.is_dir():
                        target.mkdir(exist_ok=True)
                    else:
                        file.replace(target)
            return self.open(name, root=self.data_dir, download=False)
        except _UNREADABLE as error:
            other = f", or {self.other_source}" if self.other_source else ""
            raise UserError(
                f"{self.name} is missing or damaged in {self.data_dir / self.files}, and its download failed "
                f"({one_line(error)}): give --data-dir DIR where DIR/{self.files} is torchvision's copy{other}"
            ) from None


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Sets a timeout for connections; torchvision sets none."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


def _tensors(raw: Any) -> tuple[Tensor, Tensor]:
    """The images ``(N, C, H, W)`` uint8 and the labels ``(N,)`` int64 of one of torchvision's small data sets."""
    images = torch.as_tensor(raw.data)
    labels = torch.as_tensor(np.asarray(raw.targets if hasattr(raw, "targets") else raw.labels), dtype=torch.int64)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    return images, labels
