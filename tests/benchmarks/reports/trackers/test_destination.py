from __future__ import annotations

import importlib
from pathlib import Path

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports.trackers import destination
from robustbench_cli.benchmarks.reports.trackers.destination import PLACES, parse_destination
from robustbench_cli.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tensorboard", "--to tensorboard: give tensorboard:DIR"),
        ("wandb:", "--to wandb: give wandb:PROJECT"),
        ("wandb:me/", "--to wandb:me/: give wandb:PROJECT or wandb:ENTITY/PROJECT"),
        ("tensorbord:a", "--to tensorbord:a: unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
    ],
)
def test_a_wrong_destination_is_a_user_error(text: str, line: str) -> None:
    """The line says what would be right."""
    with pytest.raises(UserError) as caught:
        parse_destination(text)
    assert str(caught.value) == line


@pytest.mark.parametrize("tracker", PLACES)
def test_a_missing_library_names_its_extra(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any store is read."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    module = importlib.import_module(f"{destination.__package__}.{tracker}")
    monkeypatch.setattr("robustbench_cli.core.libraries.importlib.import_module", missing)
    with pytest.raises(
        UserError, match=rf"^--to {tracker} needs {tracker}: install it with pip install 'advdef\[{tracker}\]'"
    ):
        module.check(str(tmp_path))


def test_what_was_written_is_said_in_one_line(rows: pd.DataFrame, tmp_path: Path) -> None:
    """The second time nothing is."""
    made = parse_destination(f"tensorboard:{tmp_path}")
    assert made.write(rows) == f"wrote 2 runs to tensorboard:{tmp_path}"
    assert made.write(rows) == f"wrote 0 runs to tensorboard:{tmp_path} (2 already there)"
