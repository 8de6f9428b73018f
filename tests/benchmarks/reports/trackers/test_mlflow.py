from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.reports.trackers.mlflow import EXPERIMENT, check, write
from robustbench_cli.benchmarks.reports.trackers.tracked_run import TrackedRun
from robustbench_cli.core.errors import UserError


def test_runs_in_a_store(runs: list[TrackedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow reads all points, the table and the flags; an interrupted run is written again, a finished one is not."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    uri = (tmp_path / "store").as_uri()
    check(uri)
    assert write(runs, uri) == 2
    assert write(runs, uri) == 0
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    found = {entry.data.tags["advdef.id"]: entry for entry in client.search_runs([experiment])}
    assert {*found} == {run.id for run in runs}
    for run in runs:
        entry = found[run.id]
        assert entry.info.run_name == run.name
        assert entry.data.tags["flags"] == ", ".join(run.flags)[:5000]
        assert entry.data.params == {name: value or "" for name, value in run.settings.items()}
        metrics = {point.metric for point in run.points}
        history = [
            (name, item.step, item.value)
            for name in metrics
            for item in client.get_metric_history(entry.info.run_id, name)
        ]
        assert sorted(history) == sorted((point.metric, point.step, point.value) for point in run.points)
    assert found[runs[0].id].data.tags["flag.no-eot"] == "true"
    (table,) = (tmp_path / "store").rglob(f"{found[runs[0].id].info.run_id}/artifacts/results.csv")
    assert table.read_text(encoding="utf-8") == runs[0].table
    client.set_terminated(found[runs[0].id].info.run_id, status="KILLED")
    assert write(runs, uri) == 1
    assert len(client.search_runs([experiment])) == 2


def test_a_store_that_refuses_is_a_user_error(runs: list[TrackedRun], tmp_path: Path) -> None:
    """In one line with the reason."""
    with pytest.raises(UserError, match=r"^--to mlflow:nowhere://a: .*unsupported URI.*needs 'pip install mlflow'$"):
        write(runs, "nowhere://a")
