from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import math
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.evaluation.outcomes import summarize
from robustbench_cli.benchmarks.store.store import Store

from .conftest import TINY

Advdef = Callable[..., Any]

BROKEN = """
from robustbench_cli.attacks.fgsm import FGSM

class Broken(FGSM):
    def run(self, *given):
        raise RuntimeError("no way")
"""


@pytest.fixture
def store(advdef: Advdef, here: Path, checkpoint: Path) -> Path:
    """The store ``advdef-runs`` with two attacks at two radii."""
    words = (
        "--attack",
        "fgsm",
        "--attack",
        "pgd",
        "--set",
        "pgd.steps=3",
        "--eps",
        "0.1",
        "--eps",
        "0.02",
        *TINY,
        "-q",
    )
    assert advdef("attack", "--checkpoint", "model.safetensors", *words).code == 0
    return here / "advdef-runs"


def rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV text."""
    return list(csv.DictReader(text.splitlines()))


def test_the_store_is_told_in_every_form(advdef: Advdef, here: Path, store: Path) -> None:
    """Table, CSV, JSON and Markdown have the same rows in the same order, by growing radius."""
    found = rows(advdef("report", "--format", "csv").out)
    assert [(row["eps"], row["attack"]) for row in found] == [
        ("0.02", "fgsm"),
        ("0.02", "pgd(steps=3)"),
        ("0.02", "worst-case"),
        ("0.1", "fgsm"),
        ("0.1", "pgd(steps=3)"),
        ("0.1", "worst-case"),
    ]
    objects = json.loads(advdef("report", "--format", "json").out)
    assert [each["cell"] for each in objects] == [row["cell"] for row in found]
    markdown = advdef("report", "--format", "markdown").out.splitlines()
    lines = [line for line in markdown if line.startswith("|")]
    assert len(lines) == len(found) + 2
    assert all(line.endswith("|") for line in lines)
    assert advdef("report").out.count("worst-case") == 2
    written = advdef("report", "-o", "a.csv", "-o", "a.json", "-o", "folder/a.md", "-q")
    assert (written.code, written.err) == (0, "")
    assert (here / "a.csv").read_text() == advdef("report", "--format", "csv").out
    assert json.loads((here / "a.json").read_text()) == objects
    assert (here / "folder" / "a.md").read_text().splitlines() == markdown


def test_several_stores_are_one_table(advdef: Advdef, here: Path, store: Path) -> None:
    """A cell that is in both is one row; a worst case is taken over both."""
    shutil.copytree(store, here / "copy")
    more = ("--attack", "cw-pgd", "--set", "steps=2", "--eps", "0.1", *TINY, "--store", "more", "-q")
    assert advdef("attack", "--checkpoint", "model.safetensors", *more).code == 0
    found = rows(advdef("report", "advdef-runs", "copy", "more", "--format", "csv").out)
    assert [row["attack"] for row in found][3:] == ["cw-pgd(steps=2)", "fgsm", "pgd(steps=3)", "worst-case"]


def test_stores_that_disagree_on_a_cell_are_named(advdef: Advdef, here: Path, store: Path) -> None:
    """The last one counts, as for copies that are alike, and a warning says so."""
    shutil.copytree(store, here / "copy")
    folder = Store(here / "copy")
    result = next(iter(folder.results()))
    outcomes = folder.outcomes(result.cell.id)
    changed = replace(outcomes, perturbed=(outcomes.perturbed + 1) % 10)
    content = changed.to_bytes()
    summary = {key: None if math.isnan(value) else value for key, value in summarize(changed).items()}
    for path in (here / "copy" / "cells").glob(f"{result.cell.id}*"):
        path.unlink()
    folder.publish(
        result.model_copy(update={"summary": summary, "outcomes_sha256": hashlib.sha256(content).hexdigest()}), content
    )
    ended = advdef("report", "advdef-runs", "copy")
    line = f"advdef-runs and copy have different results of the cell {result.cell.id}: the one in copy counts"
    assert (ended.code, line in ended.err) == (0, True)


def test_conditions_choose_rows(advdef: Advdef, store: Path) -> None:
    """All of several keys, any of one key's values; a worst case is still over all the attacks."""
    every = rows(advdef("report", "--format", "csv").out)
    assert (
        rows(advdef("report", "--where", "eps=0.1", "--where", "attack=worst-case", "--format", "csv").out) == every[5:]
    )
    assert rows(advdef("report", "--where", "attack=pgd", "--where", "attack=fgsm", "--format", "csv").out) == [
        row for row in every if row["attack"] != "worst-case"
    ]
    nothing = advdef("report", "--where", "defense=hrs")
    assert (nothing.code, nothing.out) == (0, "no rows\n")
    assert nothing.err == "advdef: warning: --where 'defense=hrs' fits no row: there is 'none'\n"


def test_a_gate_is_an_exit_code(advdef: Advdef, here: Path, store: Path) -> None:
    """0 where every row is at the limit or above, 1 and a line for each below, whatever the table shows rounded."""
    left = {
        (row["eps"], row["attack"]): float(row["robust_accuracy"])
        for row in rows(advdef("report", "--format", "csv").out)
    }
    lowest = left["0.1", "worst-case"]
    assert advdef("report", "--fail-under", f"robust_accuracy={lowest!r}").code == 0
    ended = advdef("report", "--fail-under", f"robust_accuracy={lowest + 1e-6!r}")
    assert ended.code == 1
    assert "worst-case" in ended.out
    lines = [line for line in ended.err.splitlines() if "worst-case" in line]
    assert lines == [
        f"advdef: error: digits small-cnn none worst-case linf eps 0.1 n 40: robust_accuracy {lowest:.6g} is below {lowest + 1e-6:g}"
    ]
    where = ("--where", "eps=0.02", "--where", "attack=fgsm")
    assert advdef("report", *where, "--fail-under", f"robust_accuracy={left['0.02', 'fgsm']}").code == 0


def test_a_baseline_is_an_exit_code(advdef: Advdef, here: Path, store: Path) -> None:
    """Against itself nothing drops; a better past is 1, a past with a row that is gone is 3."""
    gate = ("--baseline", "past.csv", "--max-drop", "robust_accuracy=0.05")
    advdef("report", "-o", "past.csv")
    assert advdef("report", *gate).code == 0
    past = rows((here / "past.csv").read_text())
    past[0]["robust_accuracy"] = str(float(past[0]["robust_accuracy"]) + 0.051)
    write(here / "past.csv", past)
    ended = advdef("report", *gate)
    assert ended.code == 1
    (line,) = [line for line in ended.err.splitlines() if line.startswith("advdef: error: ")]
    assert line.startswith("advdef: error: digits small-cnn none fgsm linf eps 0.02 n 40: robust_accuracy fell from ")
    assert line.endswith("by more than 0.05")
    write(here / "past.csv", [*past[1:], past[0] | {"attack": "square"}])
    ended = advdef("report", *gate)
    assert ended.code == 3
    assert "none square linf eps 0.02 n 40: it is in the baseline, and not in the table" in ended.err
    assert advdef("report", *gate, "--where", "attack=fgsm", "--where", "eps=0.1").code == 0


def write(path: Path, table: list[dict[str, str]]) -> None:
    """Writes rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


def test_failed_cells_leave_a_gate_unjudged(advdef: Advdef, here: Path, store: Path) -> None:
    """With a gate or without, unless the conditions leave them out; ``store prune --unfinished`` forgets them."""
    (here / "own.py").write_text(BROKEN)
    words = ("attack", "--checkpoint", "model.safetensors", "--attack", "own.py:Broken", "--eps", "0.3", *TINY)
    assert advdef(*words).code == 3
    told = advdef("report")
    assert told.code == 3
    assert "error: cell " in told.err
    gate = ("--fail-under", "robust_accuracy=0")
    judged = advdef("report", *gate)
    assert judged.code == 3
    assert "failed: RuntimeError: no way" in judged.err
    assert advdef("report", *gate, "--where", "eps=0.1").code == 0
    assert advdef("report", *gate, "--where", "eps=0.3").code == 3
    assert "failed: RuntimeError: no way" in advdef("store", "prune", "--unfinished").out
    assert advdef("report", *gate).code == 0


STOPPING = """
import os
from robustbench_cli.attacks.fgsm import FGSM

class Stopping(FGSM):
    '''FGSM until it is interrupted.'''
    def run(self, source, images, labels, threat, random):
        if threat.eps.max() > 0.025 and "STOP" in os.environ:
            raise KeyboardInterrupt
        return super().run(source, images, labels, threat, random)
"""


@pytest.fixture
def stopped(advdef: Advdef, here: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of six cells in ``stopped``, interrupted when two of them are there."""
    (here / "own.py").write_text(STOPPING)
    (here / "suite.yaml").write_text(
        "{n: 20, defenses: [{checkpoint: model.safetensors}], attacks: ['own.py:Stopping', fgsm], eps: [0.01, 0.02, 0.03]}"
    )
    first = ("--attack", "own.py:Stopping", "--eps", "0.01", "--eps", "0.02", "--n", "20")
    assert advdef("attack", "--checkpoint", "model.safetensors", *first, "--store", "stopped", "-q").code == 0
    with monkeypatch.context() as meanwhile:
        meanwhile.setenv("STOP", "1")
        assert advdef("sweep", "suite.yaml", "--store", "stopped", "-q").code == 130
    return here / "stopped"


def test_the_report_of_an_interrupted_sweep_is_incomplete(advdef: Advdef, stopped: Path) -> None:
    """Exit code 3 with a line for each cell that was asked for and is not there, with a gate and without."""
    for gate in ((), ("--fail-under", "robust_accuracy=0")):
        ended = advdef("report", "stopped", *gate)
        lines = [line for line in ended.err.splitlines() if "is missing" in line]
        assert (ended.code, len(lines)) == (3, 4), ended
        assert "(digits small-cnn none own.py:Stopping linf eps 0.03) is missing" in lines[-1]
        assert "passed" not in ended.err
    assert "4 cells missing" in advdef("store", "verify", "stopped").out


def test_conditions_say_which_missing_cells_count(advdef: Advdef, stopped: Path) -> None:
    """A part of a suite that is whole can be judged."""
    for where, code in [
        (("eps=0.01", "attack=own.py:Stopping"), 0),
        (("eps=0.02",), 3),
        (("attack=fgsm",), 3),
        # It is over fewer attacks than were asked for.
        (("attack=worst-case",), 3),
        (("checkpoint=model.safetensors",), 3),
        (("eps=0.01", "defense=hrs"), 3),
    ]:
        conditions = [word for each in where for word in ("--where", each)]
        assert advdef("report", "stopped", *conditions, "--fail-under", "robust_accuracy=0").code == code, where


def test_an_interrupted_sweep_is_whole_when_it_has_gone_on(advdef: Advdef, stopped: Path, here: Path) -> None:
    """Also by way of another store; and where nobody wants the rest, it can be forgotten."""
    for store in ("left", "other", "merged"):
        shutil.copytree(stopped, here / store)
    assert advdef("store", "prune", "left", "--unfinished", "--dry-run").out.count("is missing") == 4
    assert advdef("report", "left").code == 3
    assert advdef("store", "prune", "left", "--unfinished").out.count("is missing") == 4
    assert advdef("report", "left", "--fail-under", "robust_accuracy=0").code == 0
    assert advdef("sweep", "suite.yaml", "--store", "other", "-q").code == 0
    assert advdef("report", "stopped", "other", "--fail-under", "robust_accuracy=0").code == 0
    assert advdef("store", "merge", "stopped", "new").code == 0
    assert advdef("report", "new").code == 3
    assert advdef("store", "merge", "other", "merged").code == 0
    assert advdef("report", "merged", "--fail-under", "robust_accuracy=0").code == 0


def test_a_store_that_shards_share_remembers_the_whole_grid(advdef: Advdef, here: Path, stopped: Path) -> None:
    """One share alone is not the suite."""
    words = ("sweep", "suite.yaml", "--store", "shared", "-q")
    assert advdef(*words, "--shard", "1/2").code == 0
    assert advdef("report", "shared").code == 3
    assert advdef(*words, "--shard", "2/2").code == 0
    assert advdef("report", "shared").code == 0


def test_many_missing_cells_are_not_many_lines(advdef: Advdef, here: Path, stopped: Path) -> None:
    """The first of them, and how many more there are."""
    seeds = ", ".join(map(str, range(50)))
    suite = f"n: 20\ndefenses: [{{checkpoint: model.safetensors}}]\nattacks: [fgsm]\neps: [0.1]\nseeds: [{seeds}]"
    (here / "suite.yaml").write_text(suite)
    assert advdef("sweep", "suite.yaml", "--store", "stopped", "-q", "--shard", "1/50").code == 0
    lines = [line for line in advdef("report", "stopped").err.splitlines() if "missing" in line]
    assert len(lines) == 21
    assert "and 33 more cells are missing" in lines[-1]


def test_a_row_without_a_baseline_is_named(advdef: Advdef, here: Path, store: Path) -> None:
    """It passes in no silence, and with ``--strict`` not at all."""
    gate = ("--baseline", "past.csv", "--max-drop", "robust_accuracy=0.05")
    advdef("report", "-o", "past.csv")
    assert "is not in the baseline" not in advdef("report", *gate, "--strict").err
    write(here / "past.csv", rows((here / "past.csv").read_text())[:1])
    ended = advdef("report", *gate)
    assert ended.code == 0
    assert len([line for line in ended.err.splitlines() if "is not in the baseline" in line]) == 5
    strict = advdef("report", *gate, "--strict")
    assert strict.code == 3
    assert "none worst-case linf eps 0.1 n 40: it is not in the baseline, and so is not judged" in strict.err


def test_success_of_attacks_is_held_down(advdef: Advdef, here: Path, store: Path) -> None:
    """A floor below it would judge upside down, and names the option that does not."""
    found = rows(advdef("report", "--format", "csv").out)
    highest = max(float(row["attack_success_rate"]) for row in found)
    assert advdef("report", "--fail-over", f"attack_success_rate={highest!r}").code == 0
    ended = advdef("report", "--fail-over", f"attack_success_rate={highest - 1e-6!r}")
    assert ended.code == 1
    assert f"attack_success_rate {highest:.6g} is above" in ended.err
    write(here / "past.csv", [row | {"attack_success_rate": "0"} for row in found])
    rise = ("--baseline", "past.csv", "--max-rise")
    assert advdef("report", *rise, f"attack_success_rate={highest!r}").code == 0
    ended = advdef("report", *rise, f"attack_success_rate={highest / 2!r}")
    assert ended.code == 1
    assert f"attack_success_rate rose from 0 to {highest:.6g}" in ended.err


def test_a_figure_that_is_missing_leaves_a_gate_unjudged(advdef: Advdef, store: Path) -> None:
    """No row at all, no distance where nothing fell, or no score since no model is defended, is 3."""
    words = ("--attack", "fgsm", "--eps", "0", *TINY, "-q")
    assert advdef("attack", "--checkpoint", "model.safetensors", *words).code == 0
    for conditions, limit, code in [
        ("attack=cw", "robust_accuracy=0", 3),
        ("eps=0", "robust_accuracy=0", 0),
        ("eps=0", "mean_l2=0", 3),
        ("eps=0", "des=1", 3),
    ]:
        assert advdef("report", "--where", conditions, "--fail-under", limit).code == code


def test_what_cannot_be_reported_is_named(advdef: Advdef, here: Path, store: Path) -> None:
    """A store, a column, a limit, a baseline or a file's ending that makes no sense is one line."""
    (here / "page.csv").write_text("<html>")
    for words, line in [
        (("gone",), "no store at gone: run 'advdef attack --store gone' first, or name another"),
        (
            ("--fail-under", "robust=0.4"),
            "--fail-under 'robust=0.4': unknown column 'robust': did you mean 'robust_accuracy',",
        ),
        (("--fail-under", "robust_accuracy=x"), "--fail-under 'robust_accuracy=x': give COLUMN=VALUE, such as"),
        (
            ("--fail-under", "attack_success_rate=0.5"),
            "--fail-under 'attack_success_rate=0.5': lower is better in attack_success_rate: give --fail-over attack_success_rate=0.5",
        ),
        (
            ("--fail-over", "robust_accuracy=0.5"),
            "--fail-over 'robust_accuracy=0.5': higher is better in robust_accuracy: give --fail-under robust_accuracy=0.5",
        ),
        (
            ("--baseline", "page.csv", "--max-drop", "attack_success_rate=0.5"),
            "--max-drop 'attack_success_rate=0.5': lower is better in attack_success_rate: give --max-rise ",
        ),
        (("--strict",), "--strict is for rows that a --baseline does not have: give one, or leave it out"),
        (("--where", "atack=x"), "--where 'atack=x': unknown column 'atack': did you mean 'attack'?"),
        (("--baseline", "page.csv"), "--baseline FILE.csv and --max-drop COLUMN=VALUE need each other: give both"),
        (("--max-drop", "des=1"), "--baseline FILE.csv and --max-drop COLUMN=VALUE need each other: give both"),
        (("--baseline", "gone.csv", "--max-drop", "des=1"), "--baseline gone.csv cannot be read ("),
        (("--baseline", "page.csv", "--max-drop", "des=1"), "--baseline page.csv has no column 'dataset'"),
        (
            ("-o", "table.txt"),
            "-o table.txt: the ending selects the format: give one of .csv, .json, .md, .tex, .html, .xml, .sarif",
        ),
        (("--format", "xml"), "--format: unknown format 'xml'"),
    ]:
        ended = advdef("report", *words)
        assert (ended.code, ended.out) == (2, "")
        assert len(ended.err.splitlines()) == 1
        assert ended.err.startswith(f"advdef: error: {line}")


def test_a_quick_look_says_so_in_every_form(advdef: Advdef, store: Path) -> None:
    """Below the tables for people, on stderr beside the others, whose column marks the rows; with -q not in words."""
    line = "run --suite standard"
    assert line in " ".join(advdef("report").out.split())
    assert line in advdef("report", "--format", "markdown").out
    for form in ("csv", "json"):
        ended = advdef("report", "--format", form)
        assert (line in ended.err, line in ended.out) == (True, False)
        assert line not in advdef("report", "--format", form, "-q").err
    marked = {row["quick_look"] for row in rows(advdef("report", "--format", "csv").out)}
    assert marked == {"True"}


def test_damaged_outcomes_are_named(advdef: Advdef, store: Path) -> None:
    """And hide no row that is whole; a gate cannot be judged."""
    path = next((store / "cells").glob("*.npz"))
    path.write_bytes(path.read_bytes()[:-1])
    ended = advdef("report", "--format", "csv")
    assert ended.code == 3
    assert len([row for row in rows(ended.out) if row["attack"] != "worst-case"]) == 3
    assert f"{path.relative_to(store.parent)} is damaged, its content is not what was stored: remove " in ended.err
    assert len([line for line in ended.err.splitlines() if not line.startswith("quick look: ")]) == 1
    assert advdef("report", "--fail-under", "robust_accuracy=0").code == 3


def test_a_damaged_copy_counts_for_nothing(advdef: Callable[..., Any], here: Path, checkpoint: Path) -> None:
    """Whichever of two stores has it: the row comes from the intact copy, and the damaged file has a line."""
    words = ("--checkpoint", checkpoint.name, "--n", "20", "--attack", "fgsm", "--eps", "0.1", "-q")
    for store in ("one", "two"):
        assert advdef("attack", *words, "--store", store).code == 0
    expected = advdef("report", "two", "--format", "csv").out
    (file,) = (here / "one" / "cells").glob("*.npz")
    file.write_bytes(b"nothing")
    for order in (("one", "two"), ("two", "one")):
        ended = advdef("report", *order, "--format", "csv")
        assert (ended.code, ended.out) == (3, expected)
        assert ended.err.count("is damaged") == 1
    (here / "one" / "cells" / file.name).unlink()
    ended = advdef("report", "one", "--format", "csv")
    assert ended.code == 3
    assert len(ended.out.splitlines()) == 1
    assert ended.err.count("cannot be read") == 1


def test_each_record_is_read_once(
    advdef: Callable[..., Any], here: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a report is linear in its cells: each file is read once, also where attacks are combined."""
    words = ("--checkpoint", checkpoint.name, "--n", "20", "--attack", "fgsm", "--attack", "pgd", "-q")
    assert advdef("attack", *words, "--eps", "0.05", "--eps", "0.1", "--eps", "0.2").code == 0
    read: Counter[str] = Counter()
    originals = os.open, io.open

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(path, str | Path):
                read[Path(path).suffix] += Path(path).parent.name == "cells"
            return original(path, *arguments, **options)

        return opened

    for module, original in zip((os, io), originals, strict=True):
        monkeypatch.setattr(module, "open", counted(original))
    ended = advdef("report", "--format", "csv")
    assert (ended.code, ended.out.count("worst-case")) == (0, 3)
    assert (read[".json"], read[".npz"]) == (6, 6)


def test_a_page_has_all_that_the_store_has(advdef: Advdef, here: Path, store: Path) -> None:
    """The same page on stdout and in a file: answers, outcomes of images, verdicts and commands."""
    written = advdef("report", "--format", "html", "-o", "pages/report.html")
    assert written.code == 0
    page = (here / "pages/report.html").read_text(encoding="utf-8")
    assert written.out == page
    assert page.startswith("<!doctype html>")
    for text in ("worst case over 2 attacks", "checks found nothing", "images wrong", "advdef attack --checkpoint"):
        assert text in page
    assert "made from the table alone" not in page
    only = advdef("report", "--where", "eps=0.02", "--format", "html").out
    assert "linf 0.02" in only
    assert "linf 0.1" not in only


def test_the_commands_of_a_page_compute_its_rows(advdef: Advdef, here: Path, store: Path) -> None:
    """Each gives the same cell in another store: chains of radii, and a model that was trained by another recipe."""
    trained = ("--defense", "jpeg", "--epochs", "1", "--set", "train.lr=0.01", "--attack", "fgsm", "--n", "20")
    assert advdef("attack", *trained, "-q").code == 0
    page = advdef("report", "--format", "html").out
    commands = [html.unescape(text) for text in re.findall(r'<td class="code">(advdef attack [^<]*)</td>', page)]
    assert len(commands) == 5
    for command in {*commands}:
        assert advdef(*shlex.split(command)[1:], "--store", "again", "-q").code == 0
    cells = [
        {row["cell"] for row in rows(advdef("report", name, "--format", "csv").out)} for name in (str(store), "again")
    ]
    assert cells[0] == cells[1]


def test_a_page_shows_saved_images(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """Those of --save-images; without a page the option is a mistake."""
    words = ("--checkpoint", "model.safetensors", "--attack", "fgsm", "--eps", "0.2", *TINY, "-q")
    assert advdef("attack", *words, "--save-images", "kept").code == 0
    page = advdef("report", "--images", "kept", "--format", "html").out
    assert page.count("perturbation magnified") > 5
    refused = advdef("report", "--images", "kept", "--format", "csv")
    assert (refused.code, refused.out) == (2, "")
    assert "--images kept: only the HTML page shows images: give --format html, or -o FILE.html" in refused.err
    refused = advdef("report", "--images", "none", "--format", "html")
    assert (refused.code, refused.out) == (2, "")
    assert "--images none: no such folder: 'advdef attack --save-images none' makes it" in refused.err


def test_a_page_of_an_incomplete_store_says_so(advdef: Advdef, here: Path, store: Path) -> None:
    """A missing cell and damaged outcomes are lines on it; the exit code is that of the table."""
    next((store / "cells").glob("*.npz")).write_bytes(b"damaged")
    next((store / "cells").glob("*.json")).unlink()
    reported = advdef("report", "--format", "html")
    assert reported.code == 3
    assert "This report is incomplete or contradictory" in reported.out


def test_a_command_that_attacks_writes_a_page_too(advdef: Advdef, here: Path, checkpoint: Path) -> None:
    """Of its rows alone, with all that is stored of them, and with the images that it saves."""
    words = ("--checkpoint", "model.safetensors", "--eps", "0.2", *TINY, "-q", "--save-images", "kept")
    assert advdef("attack", "--attack", "fgsm", *words).code == 0
    assert advdef("attack", "--attack", "pgd", *words, "-o", "report.html").code == 0
    page = (here / "report.html").read_text(encoding="utf-8")
    assert "under the only attack, pgd" in page
    assert page.count("perturbation magnified") > 5
    assert "checks found nothing" in page
    assert "images wrong" in page


def test_an_empty_store_has_no_rows_in_every_format(advdef: Advdef, here: Path) -> None:
    """A line, or a page that says so."""
    (here / "advdef-runs/cells").mkdir(parents=True)
    assert (advdef("report").code, advdef("report").out) == (0, "no rows\n")
    page = advdef("report", "--format", "html")
    assert page.code == 0
    assert "There are no rows" in page.out
    assert advdef("report", "--format", "csv").code == 0


def test_evidence_has_the_gates_and_what_the_store_has(advdef: Advdef, here: Path, store: Path) -> None:
    """A file of its own ending follows the documented schema; a broken gate ends the command as always."""
    import jsonschema

    words = ("report", str(store), "-o", "a.evidence.json", "--fail-under", "robust_accuracy=1.0")
    assert advdef(*words).code == 1
    statement = json.loads((here / "a.evidence.json").read_text(encoding="utf-8"))
    schema = Path(__file__).parents[3] / "docs/evidence.schema.json"
    jsonschema.validate(statement, json.loads(schema.read_text(encoding="utf-8")))
    predicate = statement["predicate"]
    assert predicate["judgment"]["result"] == "FAILED"
    assert predicate["audits"][0]["modelWasRun"] is False
    rows = json.loads(advdef("report", str(store), "--format", "json").out)
    for row, entry in zip(rows, predicate["evaluations"], strict=True):
        assert entry["cell"] == row["cell"]
        counts = entry["results"]["robustAccuracy"]
        assert counts["denominator"] == row["n"] * row["repeats"]
        assert counts["numerator"] == pytest.approx(row["robust_accuracy"] * counts["denominator"])
        assert all(each["versions"]["torch"] for each in entry["environment"])


def test_a_tracker_gets_the_table(advdef: Advdef, here: Path, store: Path) -> None:
    """Once; a tracker that is unknown, or beside another table, is refused before anything is printed."""
    words = ("report", str(store), "--to", "tensorboard:tracked")
    assert "wrote 1 run to tensorboard:tracked\n" in advdef(*words).err
    assert "wrote 0 runs to tensorboard:tracked (1 already there)" in advdef(*words).err
    assert len(list((here / "tracked").iterdir())) == 1
    for other in (("--to", "boards:a"), ("--protocols",)):
        refused = advdef(*words, *other)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.startswith("advdef: error: --to ")


EVIL = """
from pathlib import Path
Path("ran").touch()

from robustbench_cli.attacks.fgsm import FGSM
from robustbench_cli.defenses.jpeg import JPEG

class Attack(FGSM):
    pass

class Defense(JPEG):
    pass

def build(*given):
    raise RuntimeError
"""


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("evil.py:build", "model: evil.py:build\ndefenses: [none]\nattacks: [fgsm]"),
        ("evil.py:Attack", "defenses: [{checkpoint: model.safetensors}]\nattacks: ['evil.py:Attack']"),
        (
            "evil.py:Defense",
            "defenses: [[{checkpoint: model.safetensors}, {name: 'evil.py:Defense'}]]\nattacks: [fgsm]",
        ),
    ],
)
def test_a_report_imports_no_code_that_the_folder_names(
    advdef: Advdef, store: Path, here: Path, name: str, keys: str
) -> None:
    """A suite of pyproject.toml is not the user's word; one of the command line or the environment is."""
    (here / "evil.py").write_text(EVIL)
    suite = f"dataset: digits\nn: 20\neps: [0.1]\n{keys}\ngates: ['clean_accuracy=0.1']\n"
    (here / "gate.yaml").write_text(suite)
    (here / "pyproject.toml").write_text("[tool.advdef]\nsuite = 'gate.yaml'\n")
    ended = advdef("report", str(store))
    assert (ended.code, ended.out) == (2, "")
    assert f"the code {name} is not imported: the suite is one of pyproject.toml" in ended.err
    assert ended.err.count("\n") == 1
    assert not (here / "ran").exists()
    ended = advdef("report", str(store), "--suite", "gate.yaml")
    assert "is not imported" not in ended.err
    assert (here / "ran").exists()
