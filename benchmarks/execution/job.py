"""A job: a cell and what a worker needs to compute it. Plain data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from robustbench_cli.benchmarks.store.cell import Cell

if TYPE_CHECKING:
    pass

__all__ = ["Job"]


class Job(BaseModel):
    """A cell with what its worker needs to find and to compute it, which is no part of the cell's identity. Plain data.

    Attributes:
        cell: What to run.
        eps: The radius as it was written.
        before: The job of ``cell.after``.
        checkpoint: The checkpoint's file.
        loading: How a foreign checkpoint is loaded: keywords of ``load_checkpoint``.
        mean: Of the normalisation inside the model.
        std: Of that normalisation.
        store: The folder of the store.
        images: The folder where the adversarial images are to be saved; ``None`` for nowhere.
        data_dir: The folder of downloaded data sets.
        device: A torch device.
        batch_size: Rows that pass through the model at once; ``None`` chooses.
        replaces: The marks of results whose place the new ones take, by cell; see :meth:`~.store.Store.result_hash`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    eps: str
    before: Job | None = None
    checkpoint: Path
    loading: dict[str, Any]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    store: Path
    images: Path | None = None
    data_dir: Path | None
    device: str
    batch_size: int | None
    replaces: dict[str, str] = {}
