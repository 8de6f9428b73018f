"""What a person sees: the report on stdout; notes, warnings, errors and progress on stderr.

Words are printed as they are (no markup, no emoji codes) except for control characters, which are shown and not obeyed;
lines are never broken or cut in a pipe, and colours follow the terminal and ``NO_COLOR``. While a command runs, stdout
is the report's alone: what a model prints goes to stderr. Of several processes that a launcher has started for one command, the first prints all
that is the same for all, and whichever fails first tells why.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import IO, TYPE_CHECKING

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.escaping import escaped_for_terminal
from robustbench_cli.defenses.base.training.processes import Processes

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

__all__ = [
    "Progress",
    "Task",
    "begin",
    "details",
    "drop_the_rest",
    "error",
    "fault",
    "note",
    "progress",
    "report",
    "require_stdout",
    "settings",
    "stdout_for_the_report",
    "warn",
    "width",
]

# Nothing is as wide as this, so that nothing is cut. Rich pads a table only to the width of its own content.
_WIDTH_OF_A_PIPE = 100_000


@dataclass
class _Settings:
    """What ``-q`` and ``-v`` set, for the one command that this process runs."""

    quiet: bool = False
    verbose: bool = False


@dataclass
class _Report:
    """Where the report goes, while a command runs; ``None`` is stdout as it is."""

    stream: IO[str] | None = None


settings = _Settings()
_kept = _Report()


def begin() -> None:
    """Forgets the settings and the streams of a command that ran before in the same process."""
    settings.quiet = settings.verbose = False
    _console.cache_clear()
    _tells_of_the_end.cache_clear()


def require_stdout() -> None:
    """Makes sure that there is a stdout to report on; where stdin or stderr is closed, it leads nowhere from now on.

    Otherwise the first files that are opened would get their numbers, and with them what libraries print.

    Raises:
        UserError: The process was started without a stdout.
    """
    without = sys.stdout is None
    # The lowest free number is taken first.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    if without:
        raise UserError("stdout is closed, and the report goes there: open it, with >/dev/null to see nothing of it")


@contextmanager
def stdout_for_the_report() -> Iterator[None]:
    """Keeps stdout for :func:`report` alone: what a model, a library or their C code writes there goes to stderr.

    So do the processes that are started meanwhile.
    """
    before = sys.stdout
    before.flush()
    try:
        # What Python's own stdout is a copy of.
        own = os.dup(1)
    except OSError:
        own = None
    try:
        stream = before
        if own is not None:
            with suppress(OSError, ValueError):
                if before.fileno() == 1:
                    stream = os.fdopen(os.dup(own), "w", encoding=before.encoding, errors="backslashreplace")
            with suppress(OSError):
                os.dup2(2, 1)
        _kept.stream, sys.stdout = stream, sys.stderr
        _console.cache_clear()
        yield
    finally:
        # What is still in the buffers of Python's stdout and of C's is not the report either.
        with suppress(OSError, ValueError):
            before.flush()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)
        if own is not None:
            os.dup2(own, 1)
            os.close(own)
        if stream is not before:
            with suppress(OSError):
                stream.close()
        _kept.stream, sys.stdout = None, before
        _console.cache_clear()


def _stdout() -> IO[str]:
    return _kept.stream or sys.stdout


def report(content: RenderableType) -> None:
    """Prints what was asked for on stdout: a string line by line as it is, anything else as rich draws it.

    Where the reader has left (``| head``), the rest is dropped without a word, and the command goes on to its exit
    code.
    """
    if Processes.from_environment().rank:
        return
    stream = _stdout()
    if not isinstance(content, str):
        if stream.isatty():
            _console("stdout").print(content, crop=False)
            return
        with _console("stdout").capture() as drawn:
            _console("stdout").print(content)
        # Rich fills up every line to the same width.
        content = "".join(f"{line.rstrip()}\n" for line in drawn.get().split("\n")).removesuffix("\n")
    else:
        content = escaped_for_terminal(content, lines=True)
    try:
        stream.write(content if content.endswith("\n") else f"{content}\n")
        stream.flush()
    except BrokenPipeError:
        drop_the_rest(stream)


def width() -> int | None:
    """How many characters the terminal behind stdout has in a line; ``None`` in a pipe, where a line has no end."""
    return _console("stdout").width if _stdout().isatty() else None


def note(line: str) -> None:
    """Tells what is going on, on stderr, unless ``-q`` was given."""
    if not settings.quiet and not Processes.from_environment().rank:
        _print(_one_line(line))


def warn(line: str) -> None:
    """Tells what the user should know before they trust the result, on stderr, even with ``-q``."""
    if not Processes.from_environment().rank:
        _print(f"advdef: warning: {_one_line(line)}", style="yellow")


def error(line: str) -> None:
    """Tells on stderr, in one line, why the command ends with another exit code than 0."""
    if _tells_of_the_end():
        _print(f"advdef: error: {_one_line(line)}", style="bold red")


def fault(exception: BaseException) -> None:
    """Tells of a fault of the project's own in one line, with the traceback before it where ``-v`` was given."""
    if not _tells_of_the_end():
        return
    if settings.verbose:
        _print("".join(traceback.format_exception(exception)).rstrip("\n"))
    what = _one_line(f"{type(exception).__name__}: {exception}")
    way_on = "" if settings.verbose else " (the same command with -v shows the traceback)"
    _print(f"advdef: internal error: {what}{way_on}", style="bold red")


def details(text: str) -> None:
    """Shows on stderr, in as many lines as it has, what ``-v`` was given for; also with ``-q``."""
    if not Processes.from_environment().rank:
        _print(text.rstrip("\n"))


def drop_the_rest(stream: IO[str]) -> None:
    """Sends what is still written to a stream whose reader has left to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@dataclass(frozen=True)
class Task:
    """One bar of a :class:`Progress`."""

    _bars: rich.progress.Progress | None
    _id: rich.progress.TaskID | None

    def advance(self, steps: float = 1) -> None:
        """Moves the bar on by ``steps`` of its total."""
        if self._bars is not None and self._id is not None:
            self._bars.advance(self._id, steps)

    def update(self, *, completed: float | None = None, total: float | None = None, text: str | None = None) -> None:
        """Sets how far the bar is, its total, or its words."""
        if self._bars is not None and self._id is not None:
            self._bars.update(self._id, completed=completed, total=total, description=text)

    def remove(self) -> None:
        """Takes the bar off the terminal."""
        if self._bars is not None and self._id is not None:
            self._bars.remove_task(self._id)


@dataclass(frozen=True)
class Progress:
    """Bars on a terminal; elsewhere the lines given to :meth:`finished`; nothing with ``-q``.

    Attributes:
        about: What stands before such a line, where several processes write them.
    """

    _bars: rich.progress.Progress | None
    about: str = ""

    def add(self, text: str, *, total: float | None = None) -> Task:
        """Adds a bar below those there are.

        Args:
            text: What is being done.
            total: How many steps it takes; without it the bar only pulses.
        """
        return Task(self._bars, None if self._bars is None else self._bars.add_task(text, total=total))

    def finished(self, line: str) -> None:
        """Tells of a finished cell or training in a line of its own, where there is no terminal to show bars on."""
        if self._bars is None:
            note(f"{self.about}: {line}" if self.about else line)


@contextmanager
def progress() -> Iterator[Progress]:
    """Shows on stderr how far a command is; the bars are gone when the block ends.

    Example::

        with console.progress() as shown:
            cells = shown.add("cells", total=len(todo))
            for cell in todo:
                run(cell)
                cells.advance()
                shown.finished(f"{cell.defense} {cell.attack.label}: done")
    """
    if (
        settings.quiet
        or Processes.from_environment().rank
        or not sys.stderr.isatty()
        or _console("stderr").is_dumb_terminal
    ):
        yield Progress(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=_console("stderr"), transient=True) as bars:
        yield Progress(bars)


def _print(line: str, *, style: str | None = None) -> None:
    # A stderr that takes no more is no reason to end otherwise than the command would.
    with suppress(OSError):
        _console("stderr").print(line, style=style, soft_wrap=True)


def _one_line(text: str) -> str:
    # What a file or a name holds must not break the line, nor tell the terminal what to do.
    return escaped_for_terminal(" ".join(text.split("\n")).strip())


@cache
def _tells_of_the_end() -> bool:
    return Processes.from_environment().reports_failure()


@cache
def _console(name: str) -> Console:
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            drop_the_rest(self.file)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            """All text comes through here, and none of it may tell the terminal what to do."""
            for segment in super().render(renderable, options):
                plain = segment.control is not None or segment.text.isprintable()
                yield (segment if plain else segment._replace(text=escaped_for_terminal(segment.text, lines=True)))

    stream = sys.stderr if name == "stderr" else _stdout()
    return Ours(
        file=stream,
        width=None if stream.isatty() else _WIDTH_OF_A_PIPE,
        markup=False,
        emoji=False,
        highlight=False,
    )
