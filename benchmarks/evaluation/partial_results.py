"""What an evaluation has found on some of the images, kept on the disk until it has gone through all of them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError

__all__ = ["BatchResult", "PartialResults", "complete_partial_results", "merge_partial_results"]

_SEAL = 32
"""Bytes of a sha256."""


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """The outcomes of an attack on some of the images, and what it cost.

    Attributes:
        places: ``(N,)`` int64, of these images in the data slice.
        outcomes: The fields of :class:`~.outcomes.Outcomes`.
        perturbed: ``(N, C, H, W)``, what the attack made of them.
        flags: Names of the checks that have spoken against the evaluation so far.
        forwards: Images passed through the models, in passes of one draw.
        backwards: The same back to the input.
        without_gradient: Those of the latter whose gradient was zero although the goal was not reached.
        seconds: Wall time.
    """

    places: Tensor
    outcomes: dict[str, NDArray[Any]]
    perturbed: Tensor
    flags: frozenset[str]
    forwards: float
    backwards: float
    without_gradient: float
    seconds: float


class PartialResults:
    """The pieces of one evaluation, a file each: the sha256 of an ``.npz`` file, and that.

    What another version has left, or is damaged, or is of other images, is not there.

    Args:
        folder: Theirs alone; it is made when something is kept.
        images: Whether the perturbed images are to be kept too, which can be large; instead of them come the clean
            ones.
    """

    def __init__(self, folder: Path, *, images: bool) -> None:
        self._folder = folder
        self._images = images
        self._version = json.dumps(versions(), sort_keys=True)

    def read(self, start: int, places: Tensor, images: Tensor) -> BatchResult | None:
        """The piece that begins with the ``start``-th image, or ``None`` where it is not there.

        Args:
            start: In the order of the evaluation.
            places: ``(N,)``, of its images in the data slice.
            images: ``(N, C, H, W)``, the clean ones.
        """
        try:
            content = self._file(start).read_bytes()
        except OSError:
            return None
        if content[:_SEAL] != _seal(content[_SEAL:]):
            return None
        with np.load(io.BytesIO(content[_SEAL:]), allow_pickle=False) as arrays:
            found = dict(arrays)
        said = json.loads(str(found.pop("said")))
        kept, perturbed = found.pop("places"), found.pop("images", None)
        if said.pop("version") != self._version or not np.array_equal(kept, places.numpy()):
            return None
        if self._images and perturbed is None:
            return None
        return BatchResult(
            places=places,
            outcomes=found,
            perturbed=images if perturbed is None else torch.from_numpy(perturbed),
            **(said | {"flags": frozenset(said["flags"])}),
        )

    def write(self, start: int, batch_result: BatchResult) -> None:
        """Keeps a piece; where it cannot be written, a kill costs more, and the store will tell when it is written."""
        said = {name: getattr(batch_result, name) for name in ("forwards", "backwards", "without_gradient", "seconds")}
        arrays: dict[str, Any] = dict(batch_result.outcomes)
        if self._images:
            arrays["images"] = batch_result.perturbed.numpy()
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            places=batch_result.places.numpy(),
            said=np.array(json.dumps(said | {"version": self._version, "flags": sorted(batch_result.flags)})),
            **arrays,
        )
        content = buffer.getvalue()
        with suppress(UserError):
            write_atomically(self._file(start), _seal(content) + content)

    def remove(self) -> None:
        """Removes them all, when the evaluation is stored."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, start: int) -> Path:
        return self._folder / f"{start}.piece"


def complete_partial_results(store: Path, *, damaged: Callable[[UserError], None]) -> Iterator[Path]:
    """The files of pieces in a store that are as they were stored.

    Args:
        store: The folder of the store.
        damaged: Called with what is to be said of each that is not.
    """
    for path in sorted((store / PARTIAL_RESULTS).glob("*/*.piece")):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            # Its cell has been finished meanwhile.
            continue
        if content[:_SEAL] == _seal(content[_SEAL:]):
            yield path
        else:
            damaged(
                UserError(
                    f"{path} is damaged, its content is not what was stored: remove it, and what it held is computed again"
                )
            )


def merge_partial_results(store: Path, other: Path, *, damaged: Callable[[UserError], None]) -> None:
    """Copies what another store has found of cells that this one has neither finished nor found that much of.

    Args:
        store: The folder of the store.
        other: The other's, which stays as it is.
        damaged: As for :func:`complete_partial_results`.

    Raises:
        UserError: This store cannot be written.
    """
    for path in complete_partial_results(other, damaged=damaged):
        own = store / path.relative_to(other)
        if not own.exists() and not any(
            (each / "cells" / f"{path.parent.name}.json").exists() for each in (store, other)
        ):
            write_atomically(own, path.read_bytes())


def _seal(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
