from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.reports.trackers.tracked_run import TrackedRun
from robustbench_cli.benchmarks.reports.trackers.wandb import check, write

BLOCK = 32 * 1024


def entries(path: Path) -> Iterator[bytes]:
    """The records of a run's file, which has the log format of LevelDB after 7 bytes: see its doc/log_format.md."""
    content, at, parts = path.read_bytes(), 7, b""
    while at < len(content):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in {1, 4}:
            yield parts
            parts = b""


def records(path: Path) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(entry) for entry in entries(path)]


def test_runs_without_a_network(runs: list[TrackedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of each run has all points, the table and the flags; the same runs are written once."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    check("project")
    assert write(runs, "project") == 2
    assert write(runs, "project") == 0
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert {path.stem for path in files} == {f"run-{run.id}" for run in runs}
    for run in runs:
        (path,) = (path for path in files if run.id in path.stem)
        found = records(path)
        (made,) = (record.run for record in found if record.HasField("run"))
        assert (made.project, made.display_name, list(made.tags)) == (
            "project",
            run.name,
            [flag[:64] for flag in run.flags],
        )
        logged = [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for record in found
            if record.HasField("history")
        ]
        points = [
            (name, row["eps"], row[name]) for row in logged for name in row if "accuracy" in name or "rate" in name
        ]
        assert sorted(points) == sorted((point.metric, point.eps, point.value) for point in run.points)
        (table,) = path.parent.rglob("results_*.table.json")
        assert len(json.loads(table.read_text(encoding="utf-8"))["data"]) == run.table.count("\n") - 1
