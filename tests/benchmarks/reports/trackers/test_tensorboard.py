from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robustbench_cli.benchmarks.reports.trackers.tensorboard import check, write
from robustbench_cli.benchmarks.reports.trackers.tracked_run import TrackedRun
from robustbench_cli.core.errors import UserError


def test_event_files(runs: list[TrackedRun], tmp_path: Path) -> None:
    """TensorBoard reads all points and texts; the same runs are written once."""
    check(str(tmp_path))
    assert write(runs, str(tmp_path)) == 2
    assert write(runs, str(tmp_path)) == 0
    assert {path.name for path in tmp_path.iterdir()} == {run.label for run in runs}
    for run in runs:
        events = EventAccumulator(str(tmp_path / run.label))
        events.Reload()
        found = [(name, event.step, event.value) for name in events.Tags()["scalars"] for event in events.Scalars(name)]
        assert sorted(found) == sorted((point.metric, point.step, pytest.approx(point.value)) for point in run.points)
        (table,) = events.Tensors("results/text_summary")
        assert table.tensor_proto.string_val == [run.markdown.encode()]


def test_a_folder_that_cannot_be_written_is_a_user_error(runs: list[TrackedRun], tmp_path: Path) -> None:
    """Where a file is in its place."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write in .*file"):
        check(str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"^--to tensorboard:.*file: cannot be written"):
        write(runs, str(tmp_path / "file"))
