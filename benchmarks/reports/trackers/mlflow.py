"""Writes runs to an MLflow tracking server or store, in the experiment ``advdef``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from robustbench_cli.benchmarks.reports.trackers.tracked_run import TrackedRun
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.core.libraries import require_library

__all__ = ["EXPERIMENT", "check", "write"]

EXPERIMENT = "advdef"
"""The name of the experiment."""

_ID = "advdef.id"
"""The tag with the identity of a run."""

_BATCH = 1000
"""The largest number of metrics that a server takes at once."""


def check(place: str) -> None:
    """Makes sure that runs can be written.

    Args:
        place: The URI of the server or store.

    Raises:
        UserError: MLflow is not installed.
    """
    # Numbers of use would go to a third party.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    require_library("mlflow", needed_by="--to mlflow", extra="mlflow")


def write(runs: Sequence[TrackedRun], place: str) -> int:
    """Writes runs, but for those that the experiment has.

    Args:
        runs: The runs.
        place: The URI of the server or store, such as ``http://localhost:5000``.

    Returns:
        The number of new runs.

    Raises:
        UserError: The server cannot be reached, or the store refuses them.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=place)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
        return sum(_write_new(client, experiment, run) for run in runs)
    except (MlflowException, OSError) as error:
        hint = "; a store in a database needs 'pip install mlflow'" if "unsupported URI" in str(error) else ""
        raise UserError(f"--to mlflow:{place}: {one_line(error)}{hint}") from None


def _write_new(client: Any, experiment: str, run: TrackedRun) -> bool:
    """Writes a run if the experiment does not have it; one that was interrupted is written again."""
    for earlier in client.search_runs([experiment], f"tags.`{_ID}` = '{run.id}'"):
        if earlier.info.status == "FINISHED":
            return False
        client.delete_run(earlier.info.run_id)
    tags = {_ID: run.id, "flags": ", ".join(run.flags), **{f"flag.{flag}": "true" for flag in run.flags}}
    made = client.create_run(experiment, run_name=run.name, tags=dict(_valid(tags))).info.run_id
    client.log_batch(made, params=list(_parameters(run)))
    metrics = list(_metrics(run))
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(made, metrics=metrics[start : start + _BATCH])
    client.log_text(made, run.table, "results.csv")
    client.set_terminated(made)
    return True


def _valid(tags: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The tags whose names MLflow takes."""
    for name, value in tags.items():
        if all(character.isascii() and (character.isalnum() or character in "._-") for character in name):
            yield name, value[:5000]


def _parameters(run: TrackedRun) -> Iterator[Any]:
    from mlflow.entities import Param

    for name, value in run.settings.items():
        yield Param(name, value)


def _metrics(run: TrackedRun) -> Iterator[Any]:
    from mlflow.entities import Metric

    now = round(1000 * time.time())
    for point in run.points:
        yield Metric(point.metric, point.value, now, point.step)
