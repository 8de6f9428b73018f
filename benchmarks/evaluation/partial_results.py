"""The results of the batches of an unfinished evaluation, on the disk until the evaluation is stored."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from torch import Tensor

from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.core.atomic_write import write_atomically

__all__ = ["LEAST_SHARED", "BatchResult", "PartialResults", "division", "is_intact", "shared_batch"]

SHARED_BATCHES = 4
"""Batches into which an evaluation is divided for several processes, unless they had too few or too many images. On the paper's
CNN, PGD on 1,000 images takes 5 % more processor time in 4 batches than in 2, and 12 % more in 8.
"""

LEAST_SHARED = 100
"""The fewest images of such a batch, unless an attack cannot hold as many."""

_HASH_BYTES = 32
"""Bytes of a sha256."""

_FILE_NAME = re.compile(r"([0-9]{1,9})-([0-9]{1,9})\.piece")

_OUTCOMES = {field.name for field in fields(Outcomes) if field.default_factory is MISSING}

_COSTS = ("forwards", "backwards", "without_gradient", "seconds")


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """The outcomes of an attack on one batch of images, with its flags and costs.

    Attributes:
        indices: ``(N,)`` int64, the images' indices in the data slice.
        outcomes: The fields of :class:`~.outcomes.Outcomes`.
        perturbed: ``(N, C, H, W)``, the perturbed images.
        flags: Names of the checks that this batch raised.
        forwards: Images passed forward through the models, in passes of one draw.
        backwards: Images passed backward to the input.
        without_gradient: The backward passes whose gradient was zero before the goal was reached.
        seconds: Wall time.
    """

    indices: Tensor
    outcomes: dict[str, NDArray[Any]]
    perturbed: Tensor
    flags: frozenset[str]
    forwards: float
    backwards: float
    without_gradient: float
    seconds: float


@cache
def _version() -> str:
    return json.dumps(versions(), sort_keys=True)


class PartialResults:
    """The batch results of one evaluation, a file each: the sha256 of an ``.npz`` file, and the ``.npz`` file.

    A batch is a range of positions in the order of the evaluation. A file counts as missing if another version wrote it, if
    it is damaged, or if it is of other images.

    Args:
        folder: A folder for this evaluation alone; the first write makes it.
        images: Whether to store the perturbed images too, which can be large. Without them a result that is read has the
            clean images instead.
    """

    def __init__(self, folder: Path, *, images: bool) -> None:
        self._folder = folder
        self._images = images

    @property
    def batches(self) -> list[range]:
        """The batches that have a file, whether or not it counts."""
        names = [_FILE_NAME.fullmatch(path.name) for path in self._folder.glob("*.piece")]
        return [range(int(name[1]), int(name[2])) for name in names if name is not None]

    @property
    def number_of_images(self) -> int:
        """The number of images in these batches."""
        return len({position for batch in self.batches for position in batch})

    def has(self, batch: range, indices: Tensor) -> bool:
        """Whether the result of a batch is stored; see :meth:`read`."""
        return self._opened(batch, indices) is not None

    def read(self, batch: range, indices: Tensor, images: Tensor) -> BatchResult | None:
        """The stored result of a batch; ``None`` if it is missing.

        Args:
            batch: The positions of the batch's images in the order of the evaluation.
            indices: ``(N,)``, the images' indices in the data slice.
            images: ``(N, C, H, W)``, the clean images.
        """
        opened = self._opened(batch, indices)
        if opened is None:
            return None
        file, record = opened
        arrays = {name: file[name] for name in file.files if name not in {"said", "places"}}
        perturbed = arrays.pop("images", None)
        return BatchResult(
            indices=indices,
            outcomes=arrays,
            perturbed=images if perturbed is None else torch.from_numpy(perturbed),
            **(record | {"flags": frozenset(record["flags"])}),
        )

    def write(self, batch: range, result: BatchResult) -> None:
        """Stores the result of a batch.

        Args:
            batch: See :meth:`read`.
            result: The result.

        Raises:
            UserError: The folder cannot be written.
        """
        record: dict[str, Any] = {name: getattr(result, name) for name in _COSTS}
        arrays: dict[str, Any] = dict(result.outcomes)
        if self._images:
            arrays["images"] = result.perturbed.numpy()
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            places=result.indices.numpy(),
            said=np.array(json.dumps(record | {"version": _version(), "flags": sorted(result.flags)})),
            **arrays,
        )
        content = buffer.getvalue()
        write_atomically(self._file(batch), hashlib.sha256(content).digest() + content)

    def remove(self) -> None:
        """Removes all files, once the evaluation is stored."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _opened(self, batch: range, indices: Tensor) -> tuple[NpzFile, dict[str, Any]] | None:
        """The arrays of a stored result, which are decompressed when they are read, and its record without its version."""
        try:
            content = self._file(batch).read_bytes()
        except OSError:
            return None
        if not is_intact(content):
            return None
        try:
            file = np.load(io.BytesIO(content[_HASH_BYTES:]), allow_pickle=False)
            record = json.loads(str(file["said"]))
            same = record.pop("version") == _version() and np.array_equal(file["places"], indices.numpy())
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError, BadZipFile):
            # The hash is right: another program wrote it.
            return None
        complete = {*_COSTS, "flags"} == {*record} and {*file.files} >= _OUTCOMES
        has_images = not self._images or "images" in file.files
        return (file, record) if same and complete and has_images else None

    def _file(self, batch: range) -> Path:
        return self._folder / f"{batch.start}-{batch.stop}.piece"


def division(total: int, size: int, stored: Collection[range] = ()) -> list[range]:
    """Divides images into batches: those that are stored, and between them as many images as a batch may have.

    Args:
        total: The number of images.
        size: The number of images in a batch.
        stored: Batches whose results are stored, of whatever size.

    Returns:
        Consecutive ranges that cover ``range(total)``. Batches of ``size`` images that are stored change nothing.

    Examples:
        >>> division(10, 4)
        [range(0, 4), range(4, 8), range(8, 10)]
        >>> division(10, 4, [range(0, 5)])
        [range(0, 5), range(5, 8), range(8, 10)]
    """
    batches: list[range] = []
    start = 0
    while start < total:
        stops = [batch.stop for batch in stored if batch.start == start < batch.stop <= total]
        next_stored = [batch.start for batch in stored if batch.start > start]
        stop = max(stops, default=min(total, (start // size + 1) * size, *next_stored))
        batches.append(range(start, stop))
        start = stop
    return batches


def shared_batch(total: int, most: int) -> int:
    """The number of images in a batch where several processes share an evaluation, whatever their number and device.

    Args:
        total: The number of images.
        most: The most images that an attack holds at once.
    """
    size = min(max(total / SHARED_BATCHES, LEAST_SHARED), most)
    return math.ceil(total / max(1, math.ceil(total / size)))


def is_intact(content: bytes) -> bool:
    """Whether the content of a file of :class:`PartialResults` is as it was stored."""
    return content[:_HASH_BYTES] == hashlib.sha256(content[_HASH_BYTES:]).digest()
