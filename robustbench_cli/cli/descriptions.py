"""Cells, their outcomes and times in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.execution.job import Job
    from robustbench_cli.benchmarks.store.cell import Cell
    from robustbench_cli.benchmarks.store.records import Failure, RequestedCell, Result

__all__ = ["describe_cell", "describe_outcome", "duration", "failure_line", "missing_line"]


def describe_outcome(outcome: Result | Failure, *, reused: bool = False) -> str:
    """The result or failure of a job in a few words.

    Args:
        outcome: The result or failure.
        reused: Whether an earlier search had the result: its time is not that of this job.
    """
    from robustbench_cli.benchmarks.store.records import Failure

    if isinstance(outcome, Failure):
        return f"failed: {outcome.error}"
    if outcome.was_skipped:
        return "skipped: no earlier attack had masked gradients, or another attack broke through"
    summary = outcome.summary
    accuracies = f"clean {summary['clean_accuracy']:.3f}, robust {summary['robust_accuracy']:.3f}"
    if reused:
        return f"{accuracies}, read from the search of an earlier cell"
    rate = (outcome.forwards + outcome.backwards) / max(outcome.seconds, 1e-3)
    return f"{accuracies}, {outcome.seconds:.1f} s, {rate:,.0f} passes/s"


def duration(seconds: float) -> str:
    """A time in its two largest units: ``2 h 5 min``.

    Args:
        seconds: At least 0.
    """
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def describe_cell(job: Job) -> str:
    """A cell in a few words, for progress lines.

    Args:
        job: The cell's job.
    """
    cell = job.cell
    eot = f" eot {cell.eot}" if cell.eot != 1 else ""
    return f"{cell.defense}{_corruption(cell)} {cell.attack_label}{_threat(cell, job.eps)}{eot}{_seed(cell)}"


def _corruption(cell: Cell) -> str:
    """The corruption and its severity, after a space; empty without one."""
    return "" if cell.corruption is None else f" {cell.corruption_label} {cell.severity}"


def _threat(cell: Cell, eps: str) -> str:
    """The norm and the radius, after a space; empty for no attack."""
    if cell.attack.name == "none":
        return ""
    return f" {cell.norm} eps {eps}" if eps else f" {cell.norm}"


def _seed(cell: Cell) -> str:
    """A seed other than 0, after a space."""
    return f" seed {cell.seed}" if cell.seed else ""


def failure_line(failure: Failure) -> str:
    """A failed cell in one line.

    Args:
        failure: The failure.
    """
    cell = failure.cell
    return f"cell {cell.id} ({cell.defense}{_corruption(cell)} {cell.attack_label}) failed: {failure.error}"


def missing_line(requested: RequestedCell) -> str:
    """A requested cell without a result, in one line.

    Args:
        requested: The cell.
    """
    cell = requested.cell
    names = f"{cell.dataset} {cell.model} {cell.defense}{_corruption(cell)} {cell.attack_label}"
    return f"cell {cell.id} ({names}{_threat(cell, requested.eps)}{_seed(cell)}) is missing"
