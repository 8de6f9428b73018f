"""Which stored cells are those of a suite, and which of its cells no store has."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

from robustbench_cli.benchmarks.execution.job import JobOptions
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import RequestedCell
from robustbench_cli.benchmarks.suites.config import SuiteConfig
from robustbench_cli.benchmarks.suites.plan import CacheFor, plan

__all__ = ["SuiteCells", "suite_cells"]


@dataclass(frozen=True)
class SuiteCells:
    """The cells of a suite.

    Attributes:
        cells: Each with its key: its identity, or the columns of its row where its model is not trained here, so that its
            identity is not known.
    """

    cells: dict[Hashable, RequestedCell]

    def __contains__(self, cell: Cell) -> bool:
        """Whether a cell is one of the suite."""
        return cell.id in self.cells or _columns(cell) in self.cells

    def absent(self, present: Iterable[Cell]) -> dict[str, RequestedCell]:
        """The cells of the suite that are not among others, by identity.

        Args:
            present: The other cells.
        """
        keys = {key for cell in present for key in (cell.id, _columns(cell))}
        return {entry.cell.id: entry for key, entry in self.cells.items() if key not in keys}


def suite_cells(config: SuiteConfig, *, cache_for: CacheFor, seed: int, options: JobOptions) -> SuiteCells | None:
    """The cells of a suite. Nothing is trained.

    Args:
        config: The suite.
        cache_for: Gives the model cache of each training.
        seed: Of trainings and attacks for which the suite sets none.
        options: Where the data sets are.

    Returns:
        ``None`` for a suite that sets nothing but gates, which are for all cells.

    Raises:
        UserError: The suite cannot be planned; see :func:`~.plan.plan`.
    """
    if config.model_fields_set <= {"gates", "description"}:
        return None
    planned = plan(config, cache_for=cache_for, seed=seed)
    untrained = {model.expected.identity for model in planned.models if model.needs_training}
    return SuiteCells(
        {
            _key(job.cell, untrained): RequestedCell(cell=job.cell, eps=job.eps, checkpoint=job.named_checkpoint)
            for job in planned.expected_jobs(options)
        }
    )


def _key(cell: Cell, untrained: Collection[str]) -> Hashable:
    return _columns(cell) if cell.checkpoint in untrained else cell.id


def _columns(cell: Cell) -> Hashable:
    """What the row of a cell says of it, without the hashes of its weights and images."""
    return (
        *(cell.dataset, cell.n, cell.model, cell.defense, cell.attack_label, cell.corruption_label, cell.severity),
        *(cell.norm, cell.eps, cell.targeted, cell.eot, cell.repeats, cell.seed, cell.accounting),
    )
