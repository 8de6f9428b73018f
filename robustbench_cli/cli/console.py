"""Prints for the user: the report on stdout; notes, warnings, errors and progress on stderr.

Text is printed as it is, without markup and emoji codes. Control characters are escaped. Lines are never broken or cut in
a pipe. Colors follow the terminal and ``NO_COLOR``. While a command runs, only the report goes to stdout; what a model
prints goes to stderr. If a launcher starts several processes for one command, the first process prints what all have in
common, and the first one that fails prints why.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.escaping import escaped_for_terminal, inert_in_github_logs
from robustbench_cli.defenses.base.training.processes import Processes

if TYPE_CHECKING:
    import rich.progress
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

__all__ = [
    "Bar",
    "Progress",
    "begin",
    "details",
    "drop_unwritten",
    "error",
    "fault",
    "has_unicode",
    "note",
    "progress",
    "report",
    "require_stdout",
    "settings",
    "stdout_for_the_report",
    "warn",
    "width",
]

# No line is as wide as this, so that rich cuts none. It pads a table only to the width of its content.
_WIDTH_OF_A_PIPE = 100_000


@dataclass
class _Settings:
    """What ``-q`` and ``-v`` set, for the command that this process runs."""

    quiet: bool = False
    verbose: bool = False


@dataclass
class _Output:
    """The stream of the report while a command runs; ``None`` is stdout itself."""

    stream: IO[str] | None = None


settings = _Settings()
_output = _Output()


def begin() -> None:
    """Forgets the settings and the streams of another command in the same process."""
    settings.quiet = settings.verbose = False
    _console.cache_clear()
    _reports_the_end.cache_clear()


def require_stdout() -> None:
    """Makes sure that there is a stdout, and replaces a closed stdin or stderr by the null device.

    Otherwise the next files that are opened would get their descriptors, and with them what libraries print.

    Raises:
        UserError: The process has no stdout.
    """
    without = sys.stdout is None
    # A new file gets the lowest free descriptor.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    if without:
        raise UserError("stdout is closed, and the report goes there: open it, with >/dev/null to see nothing of it")


@contextmanager
def stdout_for_the_report() -> Iterator[None]:
    """Reserves stdout for :func:`report`: what a model, a library or their C code prints goes to stderr.

    The same holds for processes that are started meanwhile.
    """
    before = sys.stdout
    before.flush()
    try:
        # The descriptor behind Python's stdout.
        descriptor = os.dup(1)
    except OSError:
        descriptor = None
    try:
        stream = before
        if descriptor is not None:
            with suppress(OSError, ValueError):
                if before.fileno() == 1:
                    stream = os.fdopen(os.dup(descriptor), "w", encoding=before.encoding, errors="backslashreplace")
            with suppress(OSError):
                os.dup2(2, 1)
        _output.stream, sys.stdout = stream, sys.stderr
        _console.cache_clear()
        yield
    finally:
        # What is left in the buffers of Python and C is not the report either.
        with suppress(OSError, ValueError):
            before.flush()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)
        if descriptor is not None:
            os.dup2(descriptor, 1)
            os.close(descriptor)
        if stream is not before:
            with suppress(OSError):
                stream.close()
        _output.stream, sys.stdout = None, before
        _console.cache_clear()


def _stdout() -> IO[str]:
    return _output.stream or sys.stdout


_ANNOTATION = re.compile(r"::(error|warning|notice) (file|title)=")


def report(content: RenderableType) -> None:
    """Prints the report on stdout: a string as it is, anything else as rich draws it.

    Where the reader of a pipe has left (``| head``), the rest is dropped and the exit code stays the same.
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
        if "GITHUB_ACTIONS" in os.environ:
            content = inert_in_github_logs(content)
    else:
        content = escaped_for_terminal(content, lines=True)
        if "GITHUB_ACTIONS" in os.environ:
            # A line of --format github is a command; a name in it starts no other one.
            content = "\n".join(
                line.replace("##[", "#\\u0023[") if _ANNOTATION.match(line) else inert_in_github_logs(line)
                for line in content.split("\n")
            )
    try:
        stream.write(content if content.endswith("\n") else f"{content}\n")
        stream.flush()
    except BrokenPipeError:
        _drop_the_rest(stream)


def width() -> int | None:
    """The number of characters in a line of the terminal behind stdout; ``None`` in a pipe."""
    return _console("stdout").width if _stdout().isatty() else None


def has_unicode() -> bool:
    """Whether stdout can show characters outside ASCII."""
    try:
        "●⣿└".encode(getattr(_stdout(), "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def note(line: str) -> None:
    """Prints a note on stderr, except with ``-q``."""
    if not settings.quiet and not Processes.from_environment().rank:
        _print(_one_line(line))


def warn(line: str) -> None:
    """Prints a warning on stderr, even with ``-q``: what the user should know before they trust the result."""
    if not Processes.from_environment().rank:
        _print(f"advdef: warning: {_one_line(line)}", style="yellow")


def error(line: str) -> None:
    """Prints on stderr, in one line, why the exit code is not 0."""
    if _reports_the_end():
        _print(f"advdef: error: {_one_line(line)}", style="bold red")


def fault(exception: BaseException) -> None:
    """Prints an internal error in one line; with ``-v``, after its traceback."""
    _fault(exception, f"internal error: {type(exception).__name__}: {exception}")


def fault_of_own_code(exception: BaseException, line: str) -> None:
    """Prints an error in the user's own code in one line; with ``-v``, after its traceback."""
    _fault(exception, f"error: {line}")


def _fault(exception: BaseException, line: str) -> None:
    if not _reports_the_end():
        return
    if settings.verbose:
        _print("".join(traceback.format_exception(exception)).rstrip("\n"))
    hint = "" if settings.verbose else " (the same command with -v shows the traceback)"
    _print(f"advdef: {_one_line(line)}{hint}", style="bold red")


def details(text: str) -> None:
    """Prints on stderr the lines that ``-v`` adds; also with ``-q``."""
    if not Processes.from_environment().rank:
        _print(text.rstrip("\n"))


def drop_unwritten() -> None:
    """Discards what stdout and stderr cannot take, as on a full disk: at its end, Python would turn it into exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        # User code may have closed the stream.
        with suppress(ValueError):
            try:
                stream.flush()
            except OSError:
                _drop_the_rest(stream)


def _drop_the_rest(stream: IO[str]) -> None:
    """Discards what is still written to a stream that cannot take it, as one whose reader has left."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


@dataclass(frozen=True)
class Bar:
    """One bar of a :class:`Progress`."""

    _bars: rich.progress.Progress | None
    _id: rich.progress.TaskID | None

    def advance(self, steps: float = 1) -> None:
        """Advances the bar by ``steps`` of its total."""
        if self._bars is not None and self._id is not None:
            self._bars.advance(self._id, steps)

    def update(
        self,
        *,
        completed: float | None = None,
        total: float | None = None,
        text: str | None = None,
        left: str | None = None,
    ) -> None:
        """Sets the progress of the bar, its total, its text, or the text of a better estimate of the time left."""
        if self._bars is not None and self._id is not None:
            fields: dict[str, Any] = {} if left is None else {"left": left}
            self._bars.update(self._id, completed=completed, total=total, description=text, **fields)

    def restart(self, text: str, *, completed: int, total: int) -> None:
        """Shows the bar for other steps; its time begins again."""
        if self._bars is not None and self._id is not None:
            self._bars.reset(self._id, description=text, completed=completed, total=total, visible=True)

    def hide(self) -> None:
        """Hides the bar until it is restarted."""
        if self._bars is not None and self._id is not None:
            self._bars.update(self._id, visible=False)

    def remove(self) -> None:
        """Removes the bar."""
        if self._bars is not None and self._id is not None:
            self._bars.remove_task(self._id)


@dataclass(frozen=True)
class Progress:
    """Progress bars on a terminal; elsewhere one line for each :meth:`finished`; nothing with ``-q``.

    Attributes:
        about: A prefix of these lines, for one of several processes.
    """

    _bars: rich.progress.Progress | None
    about: str = ""

    def add(self, text: str, *, total: float | None = None, visible: bool = True) -> Bar:
        """Adds a bar below the others.

        Args:
            text: What is computed.
            total: The number of steps; without it the bar only pulses.
            visible: Whether it is shown before it is restarted.
        """
        return Bar(self._bars, None if self._bars is None else self._bars.add_task(text, total=total, visible=visible))

    def finished(self, line: str) -> None:
        """Prints a line for a finished cell or training, where no terminal shows bars."""
        if self._bars is None:
            note(f"{self.about}: {line}" if self.about else line)


@contextmanager
def progress() -> Iterator[Progress]:
    """Shows the progress of a command on stderr; the bars disappear when the block ends.

    Example::

        with console.progress() as bars:
            done = bars.add("cells", total=len(cells))
            for cell in cells:
                run(cell)
                done.advance()
                bars.finished(f"{cell.defense} {cell.attack.label}: done")
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
    from rich.table import Column
    from rich.text import Text

    class TimeLeft(TimeRemainingColumn):
        """The time left by the rate of the bar, unless the task has a better estimate."""

        def render(self, task: rich.progress.Task) -> Text:
            left = task.fields.get("left")
            return super().render(task) if left is None else Text(left, style="progress.remaining")

    text = TextColumn("{task.description}", markup=False)
    # The bar takes what the texts leave of a line, so that a narrow terminal cuts the bar rather than the name of a cell.
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4))
    columns = (text, bar, MofNCompleteColumn(), TimeElapsedColumn(), TimeLeft())
    with Bars(*columns, console=_console("stderr"), transient=True, expand=True) as bars:
        yield Progress(bars)


def _print(line: str, *, style: str | None = None) -> None:
    # A closed stderr does not change how the command ends.
    with suppress(OSError):
        _console("stderr").print(line, style=style, soft_wrap=True)


def _one_line(text: str) -> str:
    # Text from a file must not break the line or control the terminal.
    return escaped_for_terminal(" ".join(text.split("\n")).strip())


@cache
def _reports_the_end() -> bool:
    return Processes.from_environment().reports_failure()


@cache
def _console(name: str) -> Console:
    from rich.console import Console

    class EscapingConsole(Console):
        def on_broken_pipe(self) -> None:
            _drop_the_rest(self.file)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            """Escapes control characters: all text passes through here."""
            for segment in super().render(renderable, options):
                plain = segment.control is not None or segment.text.isprintable()
                yield (segment if plain else segment._replace(text=escaped_for_terminal(segment.text, lines=True)))

    stream = sys.stderr if name == "stderr" else _stdout()
    return EscapingConsole(
        file=stream,
        width=None if stream.isatty() else _WIDTH_OF_A_PIPE,
        markup=False,
        emoji=False,
        highlight=False,
    )
