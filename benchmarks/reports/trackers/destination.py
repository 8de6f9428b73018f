"""Where results go: the name of a tracker, and a place that it knows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustbench_cli.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.reports.trackers.tracked_run import TrackedRun

__all__ = ["PLACES", "Destination", "parse_destination"]

PLACES = {"tensorboard": "DIR", "mlflow": "URI", "wandb": "PROJECT"}
"""The trackers, each a module of this package with the functions ``check`` and ``write``, and what their places are."""

Check = Callable[[str], None]
Write = Callable[[Sequence["TrackedRun"], str], int]


@dataclass(frozen=True)
class Destination:
    """A tracker and a place.

    Attributes:
        tracker: One of :data:`PLACES`.
        place: A folder, a URI or a project.
    """

    tracker: str
    place: str

    def __str__(self) -> str:
        return f"{self.tracker}:{self.place}"

    def write(self, table: pd.DataFrame) -> str:
        """Writes a run for each model, but for runs that are there already.

        Args:
            table: The rows.

        Returns:
            What was written, in one line.

        Raises:
            UserError: The tracker refuses them.
        """
        from robustbench_cli.benchmarks.reports.trackers.tracked_run import tracked_runs

        runs = tracked_runs(table)
        write: Write = self._module().write
        new = write(runs, self.place)
        there = f" ({len(runs) - new} already there)" if len(runs) > new else ""
        return f"wrote {new} {'run' if new == 1 else 'runs'} to {self}{there}"

    def check(self) -> None:
        """Makes sure, before any store is read, that the tracker can write.

        Raises:
            UserError: Its library is not installed, or the place is impossible.
        """
        check: Check = self._module().check
        check(self.place)

    def _module(self) -> Any:
        return importlib.import_module(f"{__package__}.{self.tracker}")


def parse_destination(text: str) -> Destination:
    """Reads a value of ``--to``, and makes sure that its tracker can write.

    Args:
        text: Such as ``tensorboard:runs``.

    Raises:
        UserError: It names no tracker or no place, or see :meth:`Destination.check`.

    >>> parse_destination("mlflow")
    Traceback (most recent call last):
    robustbench_cli.core.errors.UserError: --to mlflow: give mlflow:URI
    """
    tracker, _, place = text.partition(":")
    if tracker not in PLACES:
        raise UserError(f"--to {text}: unknown tracker '{tracker}': {did_you_mean(tracker, PLACES)}")
    if not place:
        raise UserError(f"--to {tracker}: give {tracker}:{PLACES[tracker]}")
    destination = Destination(tracker, place)
    destination.check()
    return destination
