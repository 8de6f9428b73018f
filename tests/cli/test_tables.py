from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

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
WORDS = ("gaussian-noise", "worst-case", "linf 0.15", "93.8 [89,97]", "27.9 [22,33]")


def drawn(width: int | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the table on a terminal of a width, or in a pipe."""
    monkeypatch.setattr(console, "width", lambda: width)
    on = Console(width=width or 1000, legacy_windows=False)
    with on.capture() as captured:
        on.print(tables.for_terminal(TABLE), crop=False)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [20, 60, 80, 100, 120, 200, None])
def test_no_word_is_broken_at_any_width(width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column is there with whole words or is not there, and is named below then; what matters most always is."""
    lines = drawn(width, monkeypatch)
    text = "\n".join(lines)
    assert "…" not in text
    assert all(word in text for word in WORDS)
    (named,) = re.findall(r"not shown, for want of width: ([a-z0-9,\s]+)", text) or [""]
    hidden = named.replace("\n", " ").replace(",", " ").split()
    shown = lines[2].split()
    assert {"passes", "l2", "every", "vote", "success", "des", "eot"} == {*hidden} | {*shown} - {
        "defense",
        "attack",
        "threat",
        "clean",
        "robust",
        "flags",
    }
    if width is None or width >= 140:
        assert hidden == []
    if width == 80:
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("marked", "begins"),
    [([True], "quick look: "), ([True, False], "1 of 2 rows are a quick look: "), ([False, False], None)],
)
def test_a_quick_look_names_the_suite_that_looks_further(marked: list[bool], begins: str | None) -> None:
    """In one line, with how many rows it is said of where it is not said of all; a table without such a column has none."""
    lines = tables.quick_look(pd.DataFrame([ROW | {"quick_look": each} for each in marked]))
    assert len(lines) == (begins is not None)
    for line in lines:
        assert line.startswith(begins or "")
        assert "--suite standard" in line
        assert "\n" not in line
    assert tables.quick_look(TABLE) == []


def test_quiet_leaves_the_legend_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With -q the table stands alone."""
    assert any("no-eot:" in line for line in drawn(None, monkeypatch))
    monkeypatch.setattr(console.settings, "quiet", True)
    assert not any("no-eot:" in line or "~ in des" in line for line in drawn(None, monkeypatch))


def test_files_have_no_noise_of_floating_point() -> None:
    """A sum of tenths is written as a person would write it, and read back it is within 1e-12 of what was computed."""
    table = TABLE.assign(robust_accuracy=0.1 + 0.2, seed=3)
    assert ",0.3," in tables.as_text(table, "csv")
    assert '"robust_accuracy": 0.3,' in tables.as_text(table, "json")
    assert '"seed": 3' in tables.as_text(table, "json")


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
    text = tables.as_text(table, "csv")
    back = list(csv.reader(io.StringIO(text, newline="")))
    assert [len(line) for line in back] == [len(ROW) + 1] * (len(NAMES) + 1)
    place = back[0].index(column)
    assert all(line[place][0] not in "=+-@\t\r" for line in back)
    assert {line[back[0].index("mean_l2")] for line in back[1:]} == {"-0.25"}
    assert len(pd.read_csv(io.StringIO(text))) == len(NAMES)
    assert [each[column] for each in json.loads(tables.as_text(table, "json"))] == NAMES
    assert tables.as_text(table, "markdown").count("\n") == len(NAMES) + 2
    on = Console(width=1000, legacy_windows=False)
    with on.capture() as captured:
        on.print(tables.for_terminal(table), crop=False)
    for each in (text, tables.as_text(table, "markdown"), captured.get()):
        assert all(sign == "\n" or sign.isprintable() for sign in each)
