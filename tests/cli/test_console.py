from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from robustbench_cli.cli import console


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test has consoles of its own."""
    console.begin()
    yield
    console.begin()


def test_a_report_is_on_stdout_to_the_letter(capfd: pytest.CaptureFixture[str]) -> None:
    """A string is not wrapped, not marked up, and ends its line once."""
    line = "[bold]a\tb[/] :smile: " + "x" * 500
    console.report(line)
    console.report(f"{line}\n")
    assert capfd.readouterr() == (f"{line}\n" * 2, "")


def test_a_wide_table_is_whole_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    """No cell of a table is cut or wrapped where stdout is no terminal."""
    table = Table(*(f"column {index}" for index in range(40)))
    table.add_row(*("x" * 50 for _ in range(40)))
    console.report(table)
    out, _ = capfd.readouterr()
    assert out.count("x" * 50) == 40
    assert len(out.splitlines()) == 5
    assert "…" not in out


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_leaves_warnings_and_errors(capfd: pytest.CaptureFixture[str], quiet: bool) -> None:
    """With -q no note and no progress is shown, and what matters still is, one line each."""
    console.settings.quiet = quiet
    console.note("a note")
    console.warn("a\nwarning")
    console.error("an error")
    with console.progress() as shown:
        task = shown.add("cells", total=2)
        task.advance()
        task.update(completed=2, text="done")
        task.remove()
        shown.finished("a cell")
    notes = ("", "") if quiet else ("a note\n", "a cell\n")
    assert capfd.readouterr() == ("", f"{notes[0]}advdef: warning: a warning\nadvdef: error: an error\n{notes[1]}")


BARS = """
from robustbench_cli.cli import console
with console.progress() as shown:
    cells = shown.add("cells [5, 5]", total=3)
    cells.advance(2)
    shown.finished("a finished cell")
    console.note("a note")
console.warn("beware")
"""


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["plain", "no color", "dumb"])
def test_bars_are_for_terminals(environment: dict[str, str]) -> None:
    """A terminal gets bars rather than lines, without colors where NO_COLOR is set; one that cannot move gets lines."""
    controller, terminal = pty.openpty()
    settings = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "TERM"}}
    done = subprocess.run(
        [sys.executable, "-c", BARS],
        stderr=terminal,
        stdout=subprocess.PIPE,
        env={**settings, "TERM": "xterm-256color", **environment},
        check=True,
    )
    os.close(terminal)
    seen = b""
    try:
        while chunk := os.read(controller, 65536):
            seen += chunk
    except OSError:
        pass  # Linux ends a terminal that nobody holds any more with an error
    os.close(controller)
    assert done.stdout == b""
    assert b"a note" in seen
    is_dumb = environment.get("TERM") == "dumb"
    assert (b"a finished cell" in seen) is is_dumb
    assert (b"cells [5, 5]" in seen and b"2/3" in seen) is not is_dumb
    assert (b"\x1b[33m" in seen) is (environment == {})


HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b31m\u202e\r"


def test_no_text_tells_the_terminal_what_to_do(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is reported, noted or warned of, and where: control characters are shown."""
    table = Table("name", title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    console.report(table)
    console.report(f"a {HOSTILE}\n\tb\n")
    console.note(f"a {HOSTILE}\nadvdef: error: b")
    console.warn(HOSTILE)
    console.error(HOSTILE)
    console.fault(ValueError(HOSTILE))
    console.details(f"a {HOSTILE}\nb")
    out, err = capfd.readouterr()
    assert all(each in "\n\t" or each.isprintable() for each in out + err)
    assert out.count("\\x1b[31mred") == 4
    assert len(err.splitlines()) == 6


NOISY = """
import ctypes, os, sys
from robustbench_cli.attacks.pgd import PGD

def say(when):
    print("print", when)
    sys.stdout.write("write\\n")
    sys.__stdout__.write("own stdout\\n")
    os.write(1, b"descriptor\\n")
    os.system("echo a program")
    ctypes.CDLL(None).puts(b"C")

say("import")

class Mine(PGD):
    "Mine."
"""


def test_what_else_is_printed_is_no_report(tmp_path: Path, advdef_process: Callable[..., Any]) -> None:
    """What a user's code, its programs or its C print goes to stderr, and stdout has the report alone."""
    (tmp_path / "noisy.py").write_text(NOISY)
    ended = advdef_process("show", "attack", "noisy.py:Mine", "--format", "json")
    assert ended.code == 0
    assert json.loads(ended.out)["summary"] == "Mine."
    for word in ("print import", "write", "own stdout", "descriptor", "a program", "C"):
        assert word in ended.err.splitlines()


def test_stdout_is_as_it_was_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    """Within, only the report is on stdout, by Python and by descriptor; then all is again, also after an error."""
    before = sys.stdout
    with pytest.raises(KeyError), console.stdout_for_the_report():
        sys.stdout.write("a model\n")
        os.write(1, b"its C\n")
        console.report("report")
        raise KeyError
    assert sys.stdout is before
    sys.stdout.write("after\n")
    os.write(1, b"after too\n")
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["after", "after too", "report"]
    assert sorted(err.splitlines()) == ["a model", "its C"]


def test_a_stdout_of_pythons_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stdout is no file, as in a notebook, the report goes to it, and what a model prints does not."""
    notebook = io.StringIO()
    monkeypatch.setattr(sys, "stdout", notebook)
    with console.stdout_for_the_report():
        sys.stdout.write("a model\n")
        console.report("report")
    assert notebook.getvalue() == "report\n"


@pytest.mark.parametrize("content", ["::add-mask::x\nhrs ##[add-mask]x", Text("::add-mask::x\nhrs ##[add-mask]x")])
def test_a_table_gives_no_command_to_github(
    content: str | Text, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a job of GitHub Actions, whose log obeys lines that begin with two colons."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    console.report(content)
    assert capsys.readouterr().out == "\\u003a:add-mask::x\nhrs #\\u0023[add-mask]x\n"
    console.report("::notice title=advdef::1 passed ##[x]\n")
    assert capsys.readouterr().out == "::notice title=advdef::1 passed #\\u0023[x]\n"
