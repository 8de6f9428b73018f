"""The results of the batches of an unfinished evaluation, on the disk until the evaluation is stored."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError

__all__ = ["BatchResult", "PartialResults", "is_intact"]

_HASH_BYTES = 32
"""Bytes of a sha256."""

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


class PartialResults:
    """The batch results of one evaluation, a file each: the sha256 of an ``.npz`` file, and the ``.npz`` file.

    A file counts as missing if another version wrote it, if it is damaged, or if it is of other images.

    Args:
        folder: A folder for this evaluation alone; the first write makes it.
        images: Whether to store the perturbed images too, which can be large. Without them a result that is read has the
            clean images instead.
    """

    def __init__(self, folder: Path, *, images: bool) -> None:
        self._folder = folder
        self._images = images
        self._version = json.dumps(versions(), sort_keys=True)

    def read(self, start: int, indices: Tensor, images: Tensor) -> BatchResult | None:
        """The stored result of a batch; ``None`` if it is missing.

        Args:
            start: The position of the batch's first image in the order of the evaluation.
            indices: ``(N,)``, the images' indices in the data slice.
            images: ``(N, C, H, W)``, the clean images.
        """
        try:
            content = self._file(start).read_bytes()
        except OSError:
            return None
        if not is_intact(content):
            return None
        with np.load(io.BytesIO(content[_HASH_BYTES:]), allow_pickle=False) as file:
            arrays = dict(file)
        record = json.loads(str(arrays.pop("said")))
        stored_indices, perturbed = arrays.pop("places"), arrays.pop("images", None)
        if record.pop("version") != self._version or not np.array_equal(stored_indices, indices.numpy()):
            return None
        if self._images and perturbed is None:
            return None
        return BatchResult(
            indices=indices,
            outcomes=arrays,
            perturbed=images if perturbed is None else torch.from_numpy(perturbed),
            **(record | {"flags": frozenset(record["flags"])}),
        )

    def write(self, start: int, result: BatchResult) -> None:
        """Stores the result of a batch.

        A write that fails is ignored: an interrupted evaluation then repeats this batch, and a folder that cannot be
        written is an error when the whole result is stored.

        Args:
            start: See :meth:`read`.
            result: The result.
        """
        record: dict[str, Any] = {name: getattr(result, name) for name in _COSTS}
        arrays: dict[str, Any] = dict(result.outcomes)
        if self._images:
            arrays["images"] = result.perturbed.numpy()
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            places=result.indices.numpy(),
            said=np.array(json.dumps(record | {"version": self._version, "flags": sorted(result.flags)})),
            **arrays,
        )
        content = buffer.getvalue()
        with suppress(UserError):
            write_atomically(self._file(start), hashlib.sha256(content).digest() + content)

    def remove(self) -> None:
        """Removes all files, once the evaluation is stored."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, start: int) -> Path:
        return self._folder / f"{start}.piece"


def is_intact(content: bytes) -> bool:
    """Whether the content of a file of :class:`PartialResults` is as it was stored."""
    return content[:_HASH_BYTES] == hashlib.sha256(content[_HASH_BYTES:]).digest()
