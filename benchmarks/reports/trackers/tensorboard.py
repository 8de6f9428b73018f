"""Writes runs for TensorBoard: a folder with an event file for each."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from robustbench_cli.benchmarks.reports.trackers.tracked_run import TrackedRun
from robustbench_cli.core.atomic_write import ensure_writable
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.libraries import require_library

__all__ = ["check", "write"]


def check(place: str) -> None:
    """Makes sure that runs can be written.

    Args:
        place: The folder of the runs, which is made.

    Raises:
        UserError: TensorBoard is not installed, or the folder cannot be written.
    """
    require_library("tensorboard", needed_by="--to tensorboard", extra="tensorboard")
    ensure_writable(Path(place))


def write(runs: Sequence[TrackedRun], place: str) -> int:
    """Writes runs, but for those whose folder exists.

    Args:
        runs: The runs.
        place: The folder of the runs.

    Returns:
        The number of new runs.

    Raises:
        UserError: The folder cannot be written.
    """
    new = [run for run in runs if not (Path(place) / run.label).exists()]
    try:
        for run in new:
            # Under its name a folder is complete, so an interrupted command leaves no half of a run.
            with tempfile.TemporaryDirectory(dir=place, prefix=".") as folder:
                _write(run, Path(folder) / run.label)
                (Path(folder) / run.label).rename(Path(place) / run.label)
    except OSError as error:
        raise UserError(f"--to tensorboard:{place}: cannot be written ({error.strerror or error})") from None
    return len(new)


def _write(run: TrackedRun, folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for point in run.points:
            writer.add_scalar(point.metric, point.value, point.step)
        for tag, text in {"results": run.markdown, "flags": ", ".join(run.flags) or "none"}.items():
            writer.add_text(tag, text)
