from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.cli import console
from robustbench_cli.cli.table_args import TableArgs
from robustbench_cli.core.errors import UserError

from .test_tables import ROW

TABLE = pd.DataFrame(
    [
        ROW | {"cell": "c", "seconds": 1.5},
        ROW
        | {"cell": "d", "seconds": 2.5, "defense": "none", "checkpoint": "none", "robust_accuracy": 0.1, "flags": ""},
        ROW | {"cell": "e", "seconds": 3.5, "defense": "rse", "checkpoint": "rse", "robust_accuracy": 0.2, "flags": ""},
    ]
)


@pytest.fixture(autouse=True)
def fresh_console() -> Iterator[None]:
    """A console that writes to the stdout of this test."""
    console.begin()
    yield
    console.begin()


@pytest.mark.parametrize("name", ["csv", "json", "markdown", "latex", "table"])
def test_every_format_has_the_chosen_columns_in_the_chosen_order(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No option is ignored in any format: of the values of a row, only the chosen ones are there."""
    view = TableArgs.from_options(columns="cell,seconds,defense", sort=("-seconds",), wide=False)
    view.show(TABLE, name, [tmp_path / "a.csv"])
    text = capsys.readouterr().out
    positions = [text.index(value) for value in ("rse", "none", "gaussian-noise")]
    assert positions == sorted(positions)
    assert text.index("3.5") < text.index("rse")
    assert "linf" not in text
    assert (tmp_path / "a.csv").read_text() == "cell,seconds,defense\ne,3.5,rse\nd,2.5,none\nc,1.5,gaussian-noise\n"


def test_a_terminal_hides_no_chosen_column(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At 60 columns the usual table hides some; those that the user named stay, and --wide hides nothing."""
    monkeypatch.setattr(console, "width", lambda: 60)
    TableArgs().show(TABLE, "table", [])
    assert "hidden (terminal too narrow)" in capsys.readouterr().out
    TableArgs(columns=["defense", "forwards", "mean_l2", "des", "robust_accuracy_every_draw"]).show(TABLE, "table", [])
    text = capsys.readouterr().out
    assert "hidden" not in text
    assert all(header in text.split() for header in ("defense", "passes", "l2", "des", "every"))
    TableArgs(wide=True).show(TABLE, "table", [])
    text = capsys.readouterr().out
    assert "hidden" not in text
    assert "[22,33]" in text
    assert "no-eot: " in text


def test_the_best_value_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    """The row with a flag has the highest accuracy, but it is not compared."""
    robust = TABLE["robust_accuracy"]
    apart = TABLE.assign(robust_accuracy_low=robust - 0.01, robust_accuracy_high=robust + 0.01)
    TableArgs().show(apart, "table", [])
    text = capsys.readouterr().out
    assert "*20.0 [" in text
    assert " 27.9 [" in text
    assert "\n * the best of the models" in text.replace("\n* ", "\n * ")


def test_flags_are_marks_where_their_names_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any figure is hidden; with -q, which leaves out the legend, they keep their names."""
    flagged = TABLE.assign(flags="no-eot;margin-beats-cross-entropy;query-beats-gradient;surrogate-beats")
    monkeypatch.setattr(console, "width", lambda: 130)
    TableArgs().show(flagged, "table", [])
    text = capsys.readouterr().out
    assert "  b,a,c,d" in text
    assert "b no-eot: " in text
    assert "[22,33]" in text
    monkeypatch.setattr(console.settings, "quiet", True)
    TableArgs().show(flagged, "table", [])
    assert "no-eot;margin-beats" in capsys.readouterr().out


def test_an_option_that_a_format_would_ignore_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """--wide is for a terminal, and a format may have fixed columns."""
    with pytest.raises(UserError, match=r"^--wide is for the table: csv leaves nothing out"):
        TableArgs(wide=True).require_format("csv", [])
    fixed = formats.Format("tsv", (".tsv",), lambda table: "tsv")
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, fixed))
    with pytest.raises(UserError, match=r"^--columns is not for tsv, whose content is fixed: leave it out$"):
        TableArgs(columns=["n"]).require_format("table", [Path("a.tsv")])
    with pytest.raises(UserError, match=r"^--sort is not for sarif, whose content is fixed: leave it out$"):
        TableArgs(sort=["n"]).require_format("sarif", [])
    TableArgs(columns=["n"], wide=True).require_format("table", [Path("a.csv"), Path("a.tex")])


def test_the_command_takes_them(advdef: Callable[..., Any], tmp_path: Path) -> None:
    """One attack, then its table sorted and cut; beside an option that shows another table they are refused."""
    store = ("--store", str(tmp_path / "runs"))
    attack = ("attack", "--attack", "fgsm", "--epochs", "1", "--n", "20", "--eps", "0.1", "--eps", "0.02", *store, "-q")
    assert advdef(*attack).code == 0
    ended = advdef("report", str(tmp_path / "runs"), "--sort", "-eps", "--columns", "eps,defense", "--format", "csv")
    assert list(csv.reader(io.StringIO(ended.out))) == [["eps", "defense"], ["0.1", "none"], ["0.02", "none"]]
    ended = advdef("report", str(tmp_path / "runs"), "--sort", "eps", "--protocols")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.endswith("--sort is for the table of results, and --protocols shows another one: leave one out\n")
