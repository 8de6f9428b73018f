from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli import __version__

ENDING = """
    import click, errno, sys, warnings
    from robustbench_cli.cli import console
    from robustbench_cli.core.errors import UserError
    from robustbench_cli.cli.exit_codes import CellsFailed, GateFailed
    from robustbench_cli.cli.options import command, computing
    @command("ending")
    @computing
    def ending(common):
        console.report("the report")
        {}
"""


@pytest.mark.parametrize(
    ("end", "code", "lines"),
    [
        ("pass", 0, []),
        ("raise GateFailed(['a is 0.1', 'b is 0.2'])", 1, ["error: a is 0.1", "error: b is 0.2"]),
        ("raise UserError('no such thing\\\\nhere')", 2, ["error: no such thing here"]),
        ("raise CellsFailed(['pgd: out of memory'])", 3, ["error: pgd: out of memory"]),
        (
            "raise ZeroDivisionError('by zero')",
            4,
            ["internal error: ZeroDivisionError: by zero (the same command with -v shows the traceback)"],
        ),
        ("raise KeyboardInterrupt", 130, ["error: interrupted"]),
        ("raise PermissionError(errno.EACCES, 'Permission denied', 'x.csv')", 2, ["error: x.csv: Permission denied"]),
        ("raise SystemExit(0)", 4, ["internal error: SystemExit: 0 (the same command with -v shows the traceback)"]),
        ("raise OSError(errno.ENAMETOOLONG, 'File name too long', 'aa')", 2, ["error: aa: File name too long"]),
        ("raise OSError(errno.ENOSPC, 'No space left on device')", 2, ["error: No space left on device"]),
        (
            "open(chr(0xD800))",
            2,
            ["error: the name of a file is not UTF-8, and cannot be stored: rename the file"],
        ),
    ],
)
def test_each_end_has_its_exit_code_and_lines(
    advdef: Callable[..., Any], add_command: Callable[[str, str], Path], end: str, code: int, lines: list[str]
) -> None:
    """A command that ends in an exception exits with the contract's code, and says why on stderr only."""
    add_command("ending", ENDING.format(end.replace("\\\\", "\\")))
    ended = advdef("ending", "--store", "a folder")
    assert ended.code == code
    assert ended.out == "the report\n"
    assert ended.err.splitlines() == [f"advdef: {line}" for line in lines]


@pytest.mark.filterwarnings("default")
def test_a_warning_from_below_is_one_line_on_stderr(
    advdef: Callable[..., Any], add_command: Callable[[str, str], Path]
) -> None:
    """What the floors below warn of is told in a line of its own, with -q too, and changes no exit code."""
    add_command("ending", ENDING.format(r"warnings.warn('beware\nof it')"))
    ended = advdef("ending", "-q")
    assert (ended.code, ended.err) == (0, "advdef: warning: beware of it\n")


def test_verbose_shows_the_traceback_of_a_fault(
    advdef: Callable[..., Any], add_command: Callable[[str, str], Path]
) -> None:
    """With -v a fault's traceback comes before the line that tells of it."""
    add_command("ending", ENDING.format("raise ZeroDivisionError('by zero')"))
    ended = advdef("ending", "-v")
    assert ended.code == 4
    assert ended.err.startswith("Traceback (most recent call last):\n")
    assert ended.err.splitlines()[-1] == "advdef: internal error: ZeroDivisionError: by zero"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["lst"], "unknown command 'lst': did you mean 'list'?"),
        (["list", "attacks", "--fromat", "json"], "advdef list has no option --fromat: did you mean '--format'?"),
        (["--versoin"], "advdef has no option --versoin: did you mean '--version'?"),
        (["list", "attacks", "--format", "jsn"], "--format: unknown format 'jsn': did you mean 'json'?"),
        (["list", "atacks"], "advdef list: unknown kind 'atacks': did you mean 'attacks'?"),
        (
            ["list", "xyz"],
            "advdef list: unknown kind 'xyz' (choose from attacks, defenses, datasets, models, corruptions, augmentations, recipes, suites, checks)",
        ),
        (
            ["list"],
            "advdef list: give attacks|defenses|datasets|models|corruptions|augmentations|recipes|suites|checks",
        ),
        (["env", "now"], "advdef env: got unexpected extra argument (now)"),
        (["env", "--format"], "option '--format' requires an argument"),
    ],
)
def test_wrong_words_get_one_line(advdef: Callable[..., Any], words: list[str], line: str) -> None:
    """A word that is not understood gets one line that says what would be right, and exit code 2."""
    ended = advdef(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"advdef: error: {line}\n"


def test_one_or_many_of_a_kind_is_one_word(advdef: Callable[..., Any]) -> None:
    """Singular and plural name the same kind, for list as for show."""
    assert advdef("list", "attack") == advdef("list", "attacks")
    assert advdef("show", "attacks", "pgd") == advdef("show", "attack", "pgd")


def test_version(advdef: Callable[..., Any]) -> None:
    """The version is on stdout."""
    ended = advdef("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"advdef {__version__}\n", "")


def test_help_names_every_command_in_full(advdef: Callable[..., Any], add_command: Callable[[str, str], Path]) -> None:
    """A command file that is added shows up, and no first line of a command's help is cut."""
    line = "Do what is told in so many words that they do not fit into one line of the page."
    add_command(
        "added",
        f"""
        from robustbench_cli.cli.options import command
        @command("added")
        def added():
            '''{line}

            And more.
            '''
        """,
    )
    ended = advdef("--help")
    assert ended.code == 0
    assert line in " ".join(ended.out.split())
    assert "And more" not in ended.out
    assert "..." not in ended.out.replace("[ARGS]...", "")


def test_no_words_show_the_help_as_an_error(advdef: Callable[..., Any]) -> None:
    """Without a command the help is on stderr, since stdout has reports only, and the exit code is 2."""
    ended = advdef()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Usage: advdef ")


CHILD = """
import sys
from robustbench_cli.cli import commands
commands.__path__.append(sys.argv[1])
from robustbench_cli.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_in_good_order(add_command: Callable[[str, str], Path], number: signal.Signals) -> None:
    """SIGTERM ends a command as Ctrl-C does: what it had begun is put in order, and the line to resume is printed."""
    folder = add_command(
        "waiting",
        """
        import signal
        from robustbench_cli.cli import console
        from robustbench_cli.cli.options import command, computing
        @command("waiting")
        @computing
        def waiting(common):
            try:
                console.report("begun")
                signal.pause()
            finally:
                console.report("in order")
        """,
    )
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), "waiting", "--seed", "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background are deaf to it, and their children with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads start here
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "in order\n")
    assert err == ("advdef: error: interrupted\n")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_second_signal_does_not_interrupt_the_last_line(add_command: Callable[[str, str], Path], number: str) -> None:
    """Who presses Ctrl-C twice is told how to go on, and sees no traceback."""
    folder = add_command(
        "impatient",
        f"""
        import os, signal
        from robustbench_cli.cli import console
        from robustbench_cli.cli.options import command, computing
        told = console.error
        def interrupted(line):
            os.kill(os.getpid(), signal.{number})
            told(line)
        @command("impatient")
        @computing
        def impatient(common):
            console.error = interrupted
            raise KeyboardInterrupt
        """,
    )
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), "impatient"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    line = "interrupted"
    assert (ended.returncode, ended.stderr) == (130, f"advdef: error: {line}\n")


@pytest.mark.parametrize("content", ["'a line\\n' * 100_000", "Table('a', 'b')"])
def test_a_reader_that_leaves_changes_no_exit_code(add_command: Callable[[str, str], Path], content: str) -> None:
    """With stdout closed at its other end, as by head, nothing is complained of, and a gate is judged all the same."""
    folder = add_command(
        "gate",
        f"""
        from rich.table import Table
        from robustbench_cli.cli import console
        from robustbench_cli.cli.exit_codes import GateFailed
        from robustbench_cli.cli.options import command
        @command("gate")
        def gate():
            console.report({content})
            console.report({content})
            raise GateFailed(["too low"])
        """,
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), "gate"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "advdef: error: too low\n")


def test_help_into_a_pipe_that_is_closed_ends_quietly() -> None:
    """`advdef --help | true` says nothing of a broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "robustbench_cli", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_completion_of_a_shell_is_answered(advdef_process: Callable[..., Any]) -> None:
    """A shell that asks for what may follow gets the commands."""
    ended = advdef_process(_ADVDEF_COMPLETE="bash_complete", COMP_WORDS="advdef li", COMP_CWORD="1")
    assert (ended.code, ended.out, ended.err) == (0, "plain,list\n", "")


@pytest.mark.parametrize("words", [["list", "attacks"], ["--help"]])
def test_a_closed_stdout_is_one_line(words: list[str]) -> None:
    """Where there is nothing to report on, the command says so and ends as for any other wrong input."""
    done = shell(*words, redirect=">&-")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "advdef: error: stdout is closed, and the report goes there: open it, with >/dev/null to see nothing of it\n"
    )


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_takes_nothing_changes_no_exit_code(redirect: str) -> None:
    """What cannot be told is left untold: a wrong word is still 2, and what was asked for is still on stdout."""
    wrong = shell("lst", redirect=redirect)
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", "")
    right = shell("--version", redirect=redirect, ADVDEF_WRONG="a warning")
    assert (right.returncode, right.stdout) == (0, f"advdef {__version__}\n")


def test_a_full_disk_under_stdout_is_one_line() -> None:
    """A report that could not be written whole is no success."""
    done = shell("--version", redirect=">/dev/full")
    assert (done.returncode, done.stderr) == (2, "advdef: error: No space left on device\n")


def shell(*words: str, redirect: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a shell does with its streams redirected and buffered."""
    line = shlex.join([sys.executable, "-m", "robustbench_cli", *words])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | variables
    return subprocess.run(
        ["sh", "-c", f"{line} {redirect}"], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("attack", "--seed", "3"),
            "interrupted: what was finished is stored; resume with: advdef attack --seed 3",
        ),
        (("report",), "interrupted"),
    ],
)
def test_a_signal_during_imports_is_one_line(number: signal.Signals, words: tuple[str, ...], told: str) -> None:
    """Before anything is computed too, wherever an exception would be lost or become another one."""
    code = f"""
import builtins, os, sys
before, at = builtins.__import__, sys.argv.pop(1)
class Finder:
    def find_spec(self, name, *_):
        if name == at:
            try:
                os.kill(os.getpid(), {int(number)})
            except KeyboardInterrupt:
                raise ImportError("lost")
sys.meta_path.insert(0, Finder())
from robustbench_cli.cli.main import main
sys.exit(main())
"""
    for module in ("robustbench_cli.cli.dispatch", "rich.console"):
        ended = subprocess.run(
            [sys.executable, "-c", code, module, *words, "--where"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        line = f"{told} --where" if "resume" in told else told
        assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", f"advdef: error: {line}\n")


@pytest.mark.parametrize("code", [0, 1, 77])
def test_a_library_that_ends_the_process_is_no_gate(code: int) -> None:
    """Whatever exit code it has, as OpenBLAS has 1 where it gets no memory, the command ends with one line and 2."""
    library = f"""
import ctypes, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "robustbench_cli.cli.dispatch":
            ctypes.CDLL(None).exit({code})
sys.meta_path.insert(0, Finder())
from robustbench_cli.cli.main import main
sys.exit(main())
"""
    ended = subprocess.run([sys.executable, "-c", library, "list"], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("advdef: error: a library ended the process, maybe for lack of memory")


def test_too_little_memory_is_no_gate() -> None:
    """With what a user may have left of it, a library cannot be loaded: one line, and not a gate's exit code."""
    line = shlex.join([sys.executable, "-m", "robustbench_cli", "show", "attack", "pgd"])
    done = subprocess.run(["sh", "-c", f"ulimit -v 400000; {line}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "failed to map segment" in done.stderr
