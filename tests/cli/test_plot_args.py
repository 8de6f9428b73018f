from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.cli.plot_args import PlotArgs
from robustbench_cli.core.errors import UserError

Advdef = Callable[..., Any]


def test_an_option_that_would_be_ignored_is_refused(tmp_path: Path) -> None:
    """A format without files, and a plot where the table of results is not shown."""
    with pytest.raises(UserError, match=r"^--plot-format is for files: give --plots DIR too"):
        PlotArgs.from_options(plot=True, plots=None, plot_formats=("pdf",))
    with pytest.raises(UserError, match=r"^--plot draws below the table, and --format csv has no room for it"):
        PlotArgs(in_terminal=True).require_table("csv", None)
    with pytest.raises(UserError, match=r"^--plots draws the table of results, and --compare shows another one"):
        PlotArgs(folder=tmp_path).require_table("table", "--compare")
    args = PlotArgs.from_options(plot=False, plots=tmp_path / "new", plot_formats=("pdf", "png", "pdf"))
    assert (args.formats, (tmp_path / "new").is_dir()) == (("pdf", "png"), True)
    args.require_table("csv", None)


def test_the_command_draws(advdef: Advdef, tmp_path: Path) -> None:
    """Below the table and in files; with one radius there is no curve, and a warning says so below the table."""
    store = str(tmp_path / "runs")
    attack = ("attack", "--attack", "fgsm", "--epochs", "1", "--n", "20", "--store", store, "-q", "--eps", "0.1")
    assert advdef(*attack).code == 0
    ended = advdef("report", store, "--plot")
    assert (ended.code, ended.out) == (0, advdef("report", store).out)
    assert ended.err.splitlines()[-1].startswith("advdef: warning: --plot draws nothing: no model was attacked at two")
    assert advdef(*attack, "--eps", "0.02").code == 0
    ended = advdef("report", store, "--plot", "--plots", str(tmp_path / "figures"))
    assert ended.code == 0
    assert ended.err.splitlines()[-1] == f"wrote 5 charts to {tmp_path / 'figures'}"
    assert len([*(tmp_path / "figures").glob("*.svg")]) == 5
    assert "\n 100 ┤\n" in ended.out
    assert "● none" in ended.out
