"""The command ``advdef``: finds the command that was typed, and says by its exit code how it ended."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource

from robustbench_cli import __version__
from robustbench_cli.cli import commands, console
from robustbench_cli.cli.config_file import long_name
from robustbench_cli.cli.exit_codes import CellsFailed, GateFailed, Interrupted
from robustbench_cli.cli.help_page import PAGE, VARIABLES
from robustbench_cli.cli.options import option_names
from robustbench_cli.core.errors import Notice, UserError, did_you_mean, lacks_resources, one_line

__all__ = ["advdef", "run"]

# Of these, an input or the machine is the cause and its message tells all there is to tell.
_OF_THE_MACHINE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE),
    *(errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
}


class _Commands(click.Group):
    """The files of ``robustbench_cli/commands``, each imported when its command is typed or the help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{commands.__name__}.{cmd_name}")
        here = [thing for thing in vars(module).values() if isinstance(thing, click.Command)]
        return next(command for command in here if command.name == cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each command's first line in full, where click would cut it to the width of the page."""
        known = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, (each.help or "").partition("\n")[0]) for name, each in known if each is not None]
            )


@click.group(cls=_Commands, context_settings=PAGE)
@click.version_option(__version__, message="advdef %(version)s")
def advdef() -> None:
    """Train, attack and compare defenses against adversarial examples.

    "advdef demo" goes the whole way in about a minute; "advdef COMMAND --help" tells of one command.
    """


def run(words: list[str]) -> int:
    """Runs the command line.

    Args:
        words: Those after ``advdef``.

    Returns:
        The exit code; see :func:`~robustbench_cli.cli.main.main`.
    """
    console.begin()
    try:
        console.require_stdout()
        if hasattr(sys.stdout, "reconfigure"):
            # A file's name that stdout cannot encode must not end a command.
            sys.stdout.reconfigure(errors="backslashreplace")
        with _warnings_on_the_console():
            _invoke(words)
            sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except BrokenPipeError:
        console.drop_the_rest(sys.stdout)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        console.error(_describe(error))
        return 2
    except UserError as error:
        console.error(str(error))
        return 2
    except GateFailed as failed:
        for line in failed.lines:
            console.error(line)
        return 1
    except CellsFailed as failed:
        for line in failed.lines:
            console.error(line)
        return 3
    except Interrupted as interrupt:
        with _deaf():
            console.error(
                f"interrupted: {interrupt.stored}; the same command goes on: {shlex.join(['advdef', *words])}"
            )
        return 130
    except (KeyboardInterrupt, click.Abort):
        with _deaf():
            console.error("interrupted")
        return 130
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            console.fault(error)
            return 4
        console.error(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
        return 2
    except BaseException as error:  # noqa: BLE001 - whatever it is, also an exit that a user's code asks for
        if "surrogates not allowed" in str(error):
            console.error("a file's name that was given is not UTF-8, and cannot be stored: rename the file")
            return 2
        if isinstance(error, Warning):
            console.error(
                f"a warning was made an error, as PYTHONWARNINGS or code that was named can do: {one_line(error)}"
            )
            return 2
        if lacks_resources(error):
            console.error(
                f"too little memory, or too few threads ({one_line(error)}): see 'ulimit -a', or compute less at once"
            )
            return 2
        console.fault(error)
        return 4
    return 0


def _invoke(words: list[str]) -> None:
    """Click's own ``main`` maps a fault and an interrupt to 1, so what it does is done here, without the mapping."""
    asked = os.environ.get("_ADVDEF_COMPLETE")
    if asked:
        from click.shell_completion import shell_complete

        raise click.exceptions.Exit(shell_complete(advdef, {}, "advdef", "_ADVDEF_COMPLETE", asked))
    _warn_of_unknown_variables()
    with advdef.make_context("advdef", words) as context:
        advdef.invoke(context)


def _warn_of_unknown_variables() -> None:
    """Tells of variables that are named like an option's and are none's, which click passes over.

    No more than that: what is set for a session may be meant for another version.
    """
    given = sorted(name for name in os.environ if name.startswith(VARIABLES))
    if not given:
        return
    context = click.Context(advdef)
    found = (advdef.get_command(context, name) for name in advdef.list_commands(context))
    known = {str(option.envvar) for each in found if each is not None for option in each.params if option.envvar}
    for name in given:
        if name not in known:
            console.warn(f"unknown variable {name} in the environment: {did_you_mean(name, known)}")


def _describe(error: click.ClickException) -> str:
    """Click's complaint in one line that says where the word came from and what would be right."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.exceptions.NoSuchCommand):
        assert isinstance(context, click.Context)
        return (
            f"unknown command '{error.command_name}': {did_you_mean(error.command_name, advdef.list_commands(context))}"
        )
    if isinstance(error, click.NoSuchOption) and context is not None:
        known = option_names(context.command.get_params(context))
        return f"{context.command_path} has no option {error.option_name}: {did_you_mean(error.option_name, known)}"
    where = f"{context.command_path}: " if context is not None else ""
    if isinstance(error, click.MissingParameter) and error.param is not None and context is not None:
        return f"{where}{_wanted(error.param, context)}"
    if isinstance(error, click.BadParameter) and error.param is not None and context is not None:
        return f"{_source(error.param, context)}: {_as_a_clause(error.message)}"
    return f"{where}{_as_a_clause(error.format_message())}"


def _as_a_clause(sentence: str) -> str:
    return f"{sentence[:1].lower()}{sentence[1:]}".rstrip(".")


def _wanted(parameter: click.Parameter, context: click.Context) -> str:
    if isinstance(parameter, click.Argument):
        return f"give {parameter.make_metavar(context)}"
    return f"give --{long_name(parameter)} {parameter.make_metavar(context)}"


def _source(parameter: click.Parameter, context: click.Context) -> str:
    """Where a value came from: the command (an argument's), the environment's variable, or the option."""
    if isinstance(parameter, click.Argument):
        return context.command_path
    by_environment = context.get_parameter_source(parameter.name or "") is ParameterSource.ENVIRONMENT
    return str(parameter.envvar) if by_environment else f"--{long_name(parameter)}"


@contextmanager
def _deaf() -> Iterator[None]:
    """Lets nothing interrupt what is to be said of an interrupt: who presses Ctrl-C twice is told how to go on too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _warnings_on_the_console() -> Iterator[None]:
    """Shows what the floors below and the libraries warn of as our own warnings, one line each."""
    shown: set[str] = set()

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        # A checkpoint is opened several times in a command.
        if str(message) not in shown:
            shown.add(str(message))
            (console.note if type(message) is Notice else console.warn)(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        # Whatever else becomes of warnings, what is told by them is told.
        warnings.simplefilter("always", Notice)
        yield
