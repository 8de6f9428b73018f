from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.table import Table

from robustbench_cli import console


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
from robustbench_cli import console
with console.progress() as shown:
    cells = shown.add("cells [5, 5]", total=3)
    cells.advance(2)
    shown.finished("a finished cell")
    console.note("a note")
console.warn("beware")
"""


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["plain", "no colour", "dumb"])
def test_bars_are_for_terminals(environment: dict[str, str]) -> None:
    """A terminal gets bars rather than lines, without colours where NO_COLOR is set; one that cannot move gets lines."""
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
