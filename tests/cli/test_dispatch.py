from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable
from typing import Any

import click
import pytest

from robustbench_cli.cli import console, dispatch
from robustbench_cli.cli.dispatch import advdef, run
from robustbench_cli.cli.exit_codes import CellsFailed, GateFailed
from robustbench_cli.core.errors import UserError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (click.exceptions.Exit(7), 7, None),
        (UserError("a"), 2, "error: a"),
        (GateFailed(["a"]), 1, "error: a"),
        (CellsFailed(["a"]), 3, "error: a"),
        (KeyboardInterrupt(), 130, "error: interrupted: what was finished is stored; resume with: advdef sweep 'a b'"),
        (
            CellsFailed(["a"], resumable=True),
            3,
            "error: a\nadvdef: error: not all cells are done: what was finished is stored; resume with: advdef sweep 'a b'",
        ),
        (click.Abort(), 130, "error: interrupted"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "error: x: Permission denied"),
        (OSError(errno.ENOTCONN, "Not connected"), 4, "internal error: OSError: [Errno 107] Not connected (the same "),
        (
            UserWarning("a"),
            2,
            "error: PYTHONWARNINGS, or code that you named, turns a warning into an error: UserWarning: a",
        ),
        (
            MemoryError(),
            2,
            "error: too little memory, or too few threads (MemoryError): see 'ulimit -a', or compute less ",
        ),
        (ValueError("a"), 4, "internal error: ValueError: a (the same command with -v shows the traceback)"),
        (SystemExit(0), 4, "internal error: SystemExit: 0 (the same "),
    ],
)
def test_every_error_has_its_exit_code_and_line(
    error: BaseException,
    code: int,
    line: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The most special kind counts: a UserError is a ValueError."""

    def fail(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr(dispatch, "_context", fail)
    assert run(["sweep", "a b"]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("" if line is None else f"advdef: {line}")
    assert err.count("\n") == (0 if line is None else line.count("\n") + 1)


def test_commands_are_the_files_of_their_folder() -> None:
    """Sorted, and each is the command of its file's name."""
    context = click.Context(advdef)
    names = advdef.list_commands(context)
    assert names == sorted(names)
    assert {"attack", "report", "sweep", "train"} <= {*names}
    assert advdef.get_command(context, "no-such-command") is None


def test_signals_are_ignored_only_in_the_block() -> None:
    """And in a thread, which cannot handle signals, nothing changes."""
    before = signal.getsignal(signal.SIGINT)
    with dispatch._signals_ignored():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before
    seen: list[Any] = []

    def in_thread() -> None:
        with dispatch._signals_ignored():
            seen.append(signal.getsignal(signal.SIGINT))

    thread: Callable[..., threading.Thread] = threading.Thread
    started = thread(target=in_thread)
    started.start()
    started.join()
    assert seen == [before]


@pytest.mark.parametrize(("sentence", "clause"), [("Missing argument.", "missing argument"), ("", ""), ("X", "x")])
def test_messages_of_click_become_clauses(sentence: str, clause: str) -> None:
    """They follow a colon."""
    assert dispatch._as_clause(sentence) == clause


def test_a_command_leaves_no_options_behind(capsys: pytest.CaptureFixture[str]) -> None:
    """What Python code prints after a command is not silenced by the command's -q."""
    assert run(["list", "suites", "-q"]) == 0
    console.note("after it")
    assert "after it" in capsys.readouterr().err
