"""Writes runs to a project of Weights & Biases; with ``WANDB_MODE=offline`` to a local folder."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustbench_cli.benchmarks.reports.trackers.tracked_run import TrackedRun
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.libraries import require_library

__all__ = ["check", "write"]

_LONGEST_TAG = 64


def check(place: str) -> None:
    """Makes sure that runs can be written.

    Args:
        place: The project, or ``ENTITY/PROJECT``.

    Raises:
        UserError: The place names no project, or the library is not installed.
    """
    if place.endswith("/"):
        raise UserError(f"--to wandb:{place}: give wandb:PROJECT or wandb:ENTITY/PROJECT")
    require_library("wandb", needed_by="--to wandb", extra="wandb")


def write(runs: Sequence[TrackedRun], place: str) -> int:
    """Writes runs, but for those that the project, or without a network the local folder, has.

    Args:
        runs: The runs.
        place: The project, or ``ENTITY/PROJECT``.

    Returns:
        The number of new runs.

    Raises:
        UserError: The service refuses them, or cannot be reached.
    """
    import wandb

    try:
        return sum(_write_new(wandb, run, place) for run in runs)
    except (wandb.Error, OSError, ValueError) as error:
        raise UserError(f"--to wandb:{place}: {one_line(error)}") from None
    finally:
        # Ends the process that the library started.
        wandb.teardown()


def _write_new(wandb: Any, run: TrackedRun, place: str) -> bool:
    """Writes a run if it is new."""
    local = Path(os.environ.get("WANDB_DIR", ".")) / "wandb"
    if any(local.glob(f"offline-run-*-{run.id}")):
        return False
    entity, _, project = place.rpartition("/")
    # Neither the machine nor the code nor the terminal is recorded: a run has results alone.
    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, disable_code=True)
    made = wandb.init(
        entity=entity or None,
        project=project,
        id=run.id,
        name=run.name,
        tags=[flag[:_LONGEST_TAG] for flag in run.flags],
        config=run.settings,
        resume="allow",
        settings=quiet,
    )
    if made.resumed:
        made.finish()
        return False
    made.define_metric("*", step_metric="eps")
    by_radius: dict[float, dict[str, float]] = {}
    for point in run.points:
        by_radius.setdefault(point.eps, {"eps": point.eps})[point.metric] = point.value
    for eps in sorted(by_radius):
        made.log(by_radius[eps])
    header, *lines = csv.reader(io.StringIO(run.table))
    made.log({"results": wandb.Table(columns=header, data=lines)})
    made.finish()
    return True
