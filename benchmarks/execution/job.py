"""A job: a cell, and what a worker needs to compute it. Plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from robustbench_cli.benchmarks.checkpoints.size import ModelSize
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Origin
from robustbench_cli.core.atomic_write import display_path

__all__ = ["Job", "JobOptions"]


class JobOptions(BaseModel):
    """Where and how jobs run; no part of a cell's identity.

    Attributes:
        store: The folder of the store.
        images: The folder for the adversarial images; ``None`` saves none.
        data_dir: The folder of downloaded data sets.
        device: A torch device.
        batch_size: Images per forward pass; ``None`` chooses it for the device.
        split: Whether several processes may compute one cell, each some of its batches of images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Path
    images: Path | None = None
    data_dir: Path | None
    device: str
    batch_size: int | None
    split: bool = False


class Job(JobOptions):
    """A cell with the files that it needs.

    Attributes:
        cell: What to run.
        eps: The radius as the user wrote it.
        previous: The job of ``cell.after``, which leaves its broken images to this one.
        allow_no_gradients: Whether the cell breaks nothing where its attack needs gradients and the model gives none, because
            another attack of its cascade needs none. Otherwise it fails.
        checkpoint: The checkpoint's file.
        loading: Keywords of ``load_checkpoint`` for a foreign checkpoint.
        mean: Per-channel mean of the normalization inside the model.
        std: Per-channel standard deviation of that normalization.
        size: The size of the model.
        worker: The number of the process that computes it, from 1; 0 for this process, and where the number is not known.
        origin: How the command trained a model of the user's cache.
        replaces: Hashes of the results that the new ones replace, by cell; see
            :meth:`~robustbench_cli.benchmarks.store.store.Store.result_hash`.
    """

    cell: Cell
    eps: str
    previous: Job | None = None
    allow_no_gradients: bool = False
    checkpoint: Path
    loading: dict[str, Any]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: ModelSize | None = None
    worker: int = 0
    origin: Origin = Origin()
    replaces: dict[str, str] = {}

    @property
    def named_checkpoint(self) -> str:
        """The file that the user knows; see :meth:`~robustbench_cli.benchmarks.store.records.Origin.named_checkpoint`."""
        return self.origin.named_checkpoint(display_path(self.checkpoint))
