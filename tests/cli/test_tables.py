from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.cli import console, tables

ROW: dict[str, Any] = {
    "dataset": "digits",
    "model": "small-cnn",
    "checkpoint": "a/noise.safetensors",
    "defense": "gaussian-noise",
    "attack": "worst-case",
    "norm": "linf",
    "eps": "0.15",
    "targeted": "no",
    "eot": "exact",
    "n": 500,
    "repeats": 10,
    "seed": 0,
    "des": 7.5,
    "mean_l2": 1.02,
    "clean_accuracy": 0.938,
    "clean_accuracy_low": 0.8951,
    "clean_accuracy_high": 0.9623,
    "robust_accuracy": 0.2787,
    "robust_accuracy_low": 0.22,
    "robust_accuracy_high": 0.33,
    "robust_accuracy_vote": 0.22,
    "robust_accuracy_every_draw": 0.0,
    "attack_success_rate": 0.70,
    "forwards": 50_000,
    "backwards": 43_000,
    "flags": "no-eot",
    "clean_accuracy_loss_within_interval": True,
}
TABLE = pd.DataFrame([ROW])
ALWAYS = ("gaussian-noise", "worst-case", "linf 0.15", "exact", "93.8", "27.9")
"""The texts that tell rows apart, and the two accuracies."""


def drawn(width: int | None, monkeypatch: pytest.MonkeyPatch, table: pd.DataFrame = TABLE) -> list[str]:
    """The lines of the table on a terminal of a width, or in a pipe."""
    monkeypatch.setattr(console, "width", lambda: width)
    on = Console(width=width or 1000, legacy_windows=False)
    with on.capture() as captured:
        on.print(tables.for_terminal(table), crop=False)
    return captured.get().splitlines()


@pytest.mark.parametrize(("corruption", "told"), [("fog", True), (None, False)])
def test_a_mean_that_is_missing_is_explained(
    corruption: str | None, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells under corruptions that stopped when they were decided have no mean."""
    table = TABLE.assign(corruption=corruption, severity=1, stop_when_decided=0.4)
    text = "\n".join(drawn(None, monkeypatch, table))
    assert ("no mean over corruptions: how many images were attacked depends on the outcomes" in text) == told


def test_the_title_of_a_narrow_table_is_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the table is as narrow as its columns."""
    monkeypatch.setattr(console, "width", lambda: None)
    on = Console(width=1000, legacy_windows=False)
    with on.capture() as captured:
        on.print(tables.for_terminal(TABLE, columns=["robust_accuracy"]), crop=False)
    title, blank = captured.get().splitlines()[:2]
    assert len(title.rstrip()) > len(blank)


@pytest.mark.parametrize("width", [20, 60, 80, 100, 120, 200, None])
def test_no_word_is_broken_at_any_width(width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column has whole words, or it is hidden and named below; what tells rows apart is never hidden."""
    lines = drawn(width, monkeypatch)
    text = "\n".join(lines)
    assert "…" not in text
    assert all(word in text for word in ALWAYS)
    (named,) = re.findall(r"hidden \(terminal too narrow\): ([a-z0-9,\s]+)", text) or [""]
    hidden = " ".join(named.split()).split(", ") if named else []
    shown = lines[2].split()
    names = {"passes", "l2", "every", "vote", "success", "des"}
    assert names & {*shown} | names & {*hidden} == names
    assert not {*shown} & {*hidden}
    assert {"defense", "attack", "threat", "eot", "clean", "robust", "flags"} <= {*shown}
    assert ("93.8 [89,97]" in text, "27.9 [22,33]" in text) == (
        "clean interval" not in hidden,
        "robust interval" not in hidden,
    )
    # Intervals go before any column does.
    assert hidden[:3] == ["clean interval", "des", "robust interval"][: len(hidden)]
    if width is None or width >= 140:
        assert hidden == []
    if width == 80:
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("seed", (0, 1)),
        ("n", (100, 500)),
        ("eps", ("0.1", "0.2")),
        ("eot", ("1", "10")),
        ("dataset", ("digits", "mnist")),
        ("model", ("small-cnn", "paper-cnn")),
        ("targeted", ("no", "all")),
        ("checkpoint", ("a.safetensors", "b.safetensors")),
        ("checkpoint_sha256", ("a" * 64, "b" * 64)),
        ("mean", ("0.5", "0.4")),
    ],
)
def test_rows_that_differ_look_different_on_a_narrow_terminal(
    column: str, values: tuple[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever identifies a row is shown at 80 columns, in a terminal that hides something."""
    monkeypatch.setattr(console, "width", lambda: 80)
    base = {**ROW, "mean": "", "std": "", "checkpoint_sha256": "c" * 64}
    table = pd.DataFrame([base | {column: value} for value in values])
    on = Console(width=80, legacy_windows=False)
    with on.capture() as captured:
        on.print(tables.for_terminal(table), crop=False)
    assert "hidden" in captured.get()
    assert len({line for line in captured.get().splitlines() if "gaussian-noise" in line}) == 2


def test_parameters_are_broken_at_commas_where_nothing_is_left_to_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long attack takes several lines of a narrow terminal; each of its parameters stays whole."""
    monkeypatch.setattr(console, "width", lambda: 80)
    table = pd.DataFrame([ROW | {"attack": "pgd(steps=20,step_size=0.0125,random_start=false)"}])
    on = Console(width=80, legacy_windows=False)
    with on.capture() as captured:
        on.print(tables.for_terminal(table), crop=False)
    words = captured.get().split()
    assert {"pgd(steps=20,", "step_size=0.0125,", "random_start=false)"} <= {*words}
    assert max(len(line.rstrip()) for line in captured.get().splitlines()) <= 80


def test_quiet_keeps_warnings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What flags mean stays with -q, as a quick look does; the signs of the table are not explained."""
    monkeypatch.setitem(ROW, "clean_accuracy_loss_within_interval", True)
    assert any("no-eot:" in line for line in drawn(None, monkeypatch))
    monkeypatch.setattr(console.settings, "quiet", True)
    lines = drawn(None, monkeypatch)
    assert any("no-eot:" in line for line in lines)
    assert not any("~ in des" in line for line in lines)


def test_files_have_no_noise_of_floating_point() -> None:
    """A sum of tenths is written as a person would write it, and read back it is within 1e-12 of what was computed."""
    table = TABLE.assign(robust_accuracy=0.1 + 0.2, seed=3)
    assert ",0.3," in formats.as_text(table, "csv")
    assert '"robust_accuracy": 0.3,' in formats.as_text(table, "json")
    assert '"seed": 3' in formats.as_text(table, "json")


@pytest.mark.parametrize(
    ("others", "shown"),
    [
        ([], []),
        ([{"defense": "hrs", "checkpoint": "b/hrs.safetensors"}], []),
        ([{"checkpoint": "b/more.safetensors"}], ["noise.safetensors", "more.safetensors"]),
        ([{"checkpoint": "b/noise.safetensors"}], ["a/noise.safetensors", "b/noise.safetensors"]),
    ],
)
def test_models_that_are_called_the_same_are_told_apart(others: list[dict[str, Any]], shown: list[str]) -> None:
    """The table names checkpoints where two have the same defense, and with their folders where their names are one."""
    on = Console(width=1000, legacy_windows=False)
    with on.capture() as captured:
        on.print(tables.for_terminal(pd.DataFrame([ROW, *(ROW | other for other in others)])), crop=False)
    assert [word for word in captured.get().split() if word.endswith(".safetensors")] == shown


NAMES = ["\x1b[31mred\x1b]0;title\x07", "a\rb", "a|b\nc", "=cmd|' /C calc'!A0", "+fgsm", "<script>", "\u202egnp", "`a`"]


@pytest.mark.parametrize(
    "column", ["dataset", "model", "defense", "attack", "norm", "eps", "targeted", "flags", "cell"]
)
def test_no_name_is_more_than_a_name(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a store calls things by, each form has as many rows as results, and a terminal gets no commands."""
    rows = [ROW | {"cell": "c", "mean_l2": -0.25, column: name} for name in NAMES]
    table = pd.DataFrame(rows)
    text = formats.as_text(table, "csv")
    back = list(csv.reader(io.StringIO(text, newline="")))
    assert [len(line) for line in back] == [len(ROW) + 1] * (len(NAMES) + 1)
    place = back[0].index(column)
    assert all(line[place][0] not in "=+-@\t\r" for line in back)
    assert {line[back[0].index("mean_l2")] for line in back[1:]} == {"-0.25"}
    assert len(pd.read_csv(io.StringIO(text))) == len(NAMES)
    assert [each[column] for each in json.loads(formats.as_text(table, "json"))] == NAMES
    assert formats.as_text(table, "markdown").count("\n| ") == len(NAMES) + 2
    on = Console(width=1000, legacy_windows=False)
    with on.capture() as captured:
        on.print(tables.for_terminal(table), crop=False)
    for each in (text, formats.as_text(table, "markdown"), captured.get()):
        assert all(sign == "\n" or sign.isprintable() for sign in each)


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the states of two cells that differ in one thing."""

    def make(**changes: tuple[Any, Any]) -> list[Any]:
        made = []
        for index in range(2):
            changed = {name: values[index] for name, values in changes.items()}
            cell = {
                "dataset": "fashion-mnist",
                "model": "paper-cnn",
                "n": 1000,
                "defense": "gaussian-noise",
                "corruption": None,
                "corruption_label": None,
                "severity": None,
                "attack_label": "cw-pgd(steps=20)",
                "norm": "linf",
                "targeted": "no",
                "eot": 10,
                "seed": 0,
            }
            job = {"eps": "8/255", "named_checkpoint": "a/hrs.safetensors", "mean": None, "std": None}
            cell |= {name: value for name, value in changed.items() if name in cell}
            job |= {name: value for name, value in changed.items() if name in job}
            state = {
                "passes": 41_000,
                "state": "missing",
                "changed": (),
                "images_stored": 0,
            }
            state |= {name: value for name, value in changed.items() if name in state}
            made.append(SimpleNamespace(job=SimpleNamespace(cell=SimpleNamespace(**cell), **job), **state))
        return made

    return make


def drawn_cells(states: list[Any], width: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the table of cells."""
    monkeypatch.setattr(console, "width", lambda: width)
    on = Console(width=width or 1000, legacy_windows=False)
    with on.capture() as captured:
        on.print(tables.cell_states(states), crop=False)
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("eps", ("2/255", "8/255")),
        ("eot", (1, 10)),
        ("seed", (0, 1)),
        ("n", (100, 1000)),
        ("dataset", ("mnist", "fashion-mnist")),
        ("targeted", ("no", "all")),
        ("norm", ("linf", "l2")),
        ("named_checkpoint", ("a.safetensors", "b.safetensors")),
        ("mean", ((0.5,), (0.4,))),
    ],
)
def test_cells_that_differ_look_different_on_a_narrow_terminal(
    column: str, values: tuple[Any, Any], cells: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all cells share stands above the table, and the lines fit."""
    lines = drawn_cells(cells(**{column: values}), 80, monkeypatch)
    assert max(map(len, lines)) <= 80
    assert len({line for line in lines if "gaussian-noise" in line}) == 2
    if column != "dataset":
        assert lines[0].startswith("dataset fashion-mnist")
    assert not any("…" in line for line in lines)


def test_a_pipe_gets_every_column_of_the_cells(cells: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they share, so that a program finds each value in its place."""
    header = ["dataset", "model", "n", "defense", "attack", "norm", "eps", "targeted", "eot", "seed", "passes", "state"]
    assert drawn_cells(cells(), None, monkeypatch)[1].split() == header
    lines = drawn_cells(cells(changed=(("pgd.steps was 2",), ())), None, monkeypatch)
    assert lines[1].split() == [*header, "changed"]
    assert "missing, 3/1000 images" in drawn_cells(cells(images_stored=(3, 0)), None, monkeypatch)[3]


def test_a_table_with_flags_is_drawn_without_torch() -> None:
    """A report is there at once: its legend reads the checks' texts from their sources."""
    program = f"""
import sys
import pandas as pd
from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.cli import console, tables
console.report(tables.for_terminal(pd.DataFrame([{ROW!r}])))
sys.exit("torch" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "no-eot: " in ended.stdout
