"""Runs the command that the user typed, and maps the way it ends to an exit code and its lines on stderr."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource

from robustbench_cli import __version__
from robustbench_cli.cli import commands, console
from robustbench_cli.cli.config_file import long_name
from robustbench_cli.cli.exit_codes import (
    DONE,
    INTERNAL_ERROR,
    INTERRUPTED,
    USAGE_ERROR,
    CellsFailed,
    EndWithLines,
    resumes,
    unfinished,
)
from robustbench_cli.cli.help_page import PAGE, VARIABLES
from robustbench_cli.cli.options import option_names
from robustbench_cli.core.errors import Notice, UserError, did_you_mean, lacks_resources, one_line
from robustbench_cli.core.own_code import failure_in_own_code

__all__ = ["advdef", "run"]

_MACHINE_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE),
    *(errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
}
"""Errors whose cause is an input or the machine; their message says all there is to say."""

_COMPLETION = "_ADVDEF_COMPLETE"
"""The variable by which a shell asks for completions."""


class _Commands(click.Group):
    """The files of ``robustbench_cli/cli/commands``. Each is imported for its own command, and for the help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{commands.__name__}.{cmd_name.replace('-', '_')}")
        defined = [value for value in vars(module).values() if isinstance(value, click.Command)]
        return next(command for command in defined if command.name == cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the first line of each command's help in full, where click would cut it."""
        listed = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, (command.help or "").partition("\n")[0]) for name, command in listed if command is not None]
            )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes how a shell completes commands, options and names."""
        formatter.write_paragraph()
        formatter.write_text(
            "Completion in the shell: add the line to its startup file. "
            f'bash: eval "$({_COMPLETION}=bash_source advdef)"; zsh: eval "$({_COMPLETION}=zsh_source advdef)"; '
            f"fish: {_COMPLETION}=fish_source advdef | source"
        )


@click.group(cls=_Commands, context_settings=PAGE)
@click.version_option(__version__, message="advdef %(version)s")
def advdef() -> None:
    """Train, attack and compare defenses against adversarial examples.

    "advdef demo" shows the whole way in about a minute; "advdef COMMAND --help" describes a command.
    """


def run(arguments: list[str]) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments after ``advdef``.

    Returns:
        The exit code; see :mod:`robustbench_cli.cli.exit_codes`.
    """
    console.begin()
    try:
        console.require_stdout()
        if hasattr(sys.stdout, "reconfigure"):
            # The name of a file that stdout cannot encode must not end a command.
            sys.stdout.reconfigure(errors="backslashreplace")
        # Click's own main would map a fault and an interrupt to exit code 1.
        with _warnings_on_the_console(), _context(arguments) as context:
            advdef.invoke(context)
            sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - any error, also an exit that a user's code asks for
        return _end(error, arguments)
    finally:
        console.drop_unwritten()
        # What Python code prints after a command in its process does not depend on the options of that command.
        console.begin()
    return DONE


def _end(error: BaseException, arguments: Sequence[str]) -> int:
    """Prints why a command ended, and returns its exit code."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return _end_of_interrupt(arguments)
    end = next((end for kind, end in _ENDS if isinstance(error, kind)), _end_of_fault)
    code = end(error)
    if isinstance(error, CellsFailed) and error.resumable and resumes(arguments):
        console.error(unfinished("not all cells are done", arguments))
    return code


def _end_of_interrupt(arguments: Sequence[str]) -> int:
    with _signals_ignored():
        console.error(unfinished("interrupted", arguments))
    return INTERRUPTED


def _end_of_exit(error: click.exceptions.Exit) -> int:
    return error.exit_code


def _end_of_broken_pipe(error: BrokenPipeError) -> int:
    return DONE


def _end_of_no_arguments(error: click.exceptions.NoArgsIsHelpError) -> int:
    click.echo(error.format_message(), err=True)
    return USAGE_ERROR


def _end_of_usage(error: click.ClickException) -> int:
    console.error(_describe(error))
    return USAGE_ERROR


def _end_of_user_error(error: UserError) -> int:
    console.error(str(error))
    return USAGE_ERROR


def _end_with_lines(error: EndWithLines) -> int:
    for line in error.lines:
        console.error(line)
    return error.code


def _end_of_os_error(error: OSError) -> int:
    if error.errno not in _MACHINE_ERRORS:
        console.fault(error)
        return INTERNAL_ERROR
    console.error(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
    return USAGE_ERROR


def _end_of_fault(error: BaseException) -> int:
    """Distinguishes errors of the user's input or the machine from internal errors."""
    if "surrogates not allowed" in str(error):
        console.error("the name of a file is not UTF-8, and cannot be stored: rename the file")
    elif isinstance(error, Warning):
        console.error(f"PYTHONWARNINGS, or code that you named, turns a warning into an error: {one_line(error)}")
    elif lacks_resources(error):
        console.error(
            f"too little memory, or too few threads ({one_line(error)}): see 'ulimit -a', or compute less at once"
        )
    elif (failure := failure_in_own_code(error)) is not None:
        console.fault_of_own_code(error, failure)
    else:
        console.fault(error)
        return INTERNAL_ERROR
    return USAGE_ERROR


_ENDS: tuple[tuple[type[BaseException], Callable[..., int]], ...] = (
    (click.exceptions.Exit, _end_of_exit),
    (BrokenPipeError, _end_of_broken_pipe),
    (click.exceptions.NoArgsIsHelpError, _end_of_no_arguments),
    (click.ClickException, _end_of_usage),
    (UserError, _end_of_user_error),
    (EndWithLines, _end_with_lines),
    (OSError, _end_of_os_error),
)
"""How a command ends after an error other than an interrupt; the first kind that fits counts."""


def _context(arguments: list[str]) -> click.Context:
    """The context of a command line. A shell that asks for completions gets them here.

    Raises:
        click.exceptions.Exit: The completions are printed.
    """
    instruction = os.environ.get(_COMPLETION)
    if instruction:
        from click.shell_completion import shell_complete

        raise click.exceptions.Exit(shell_complete(advdef, {}, "advdef", _COMPLETION, instruction))
    _warn_of_unknown_variables()
    return advdef.make_context("advdef", arguments)


def _warn_of_unknown_variables() -> None:
    """Warns of environment variables that look like an option's and belong to none.

    It is no error: another version of the program may know them.
    """
    present = sorted(name for name in os.environ if name.startswith(VARIABLES))
    if not present:
        return
    context = click.Context(advdef)
    listed = (advdef.get_command(context, name) for name in advdef.list_commands(context))
    known = {
        str(option.envvar) for command in listed if command is not None for option in command.params if option.envvar
    }
    for name in present:
        if name not in known:
            console.warn(f"unknown variable {name} in the environment: {did_you_mean(name, known)}")


def _describe(error: click.ClickException) -> str:
    """Click's message in one line, which says where the value came from and what would be right."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return _as_clause(error.format_message())
    if isinstance(error, click.exceptions.NoSuchCommand):
        return (
            f"unknown command '{error.command_name}': {did_you_mean(error.command_name, advdef.list_commands(context))}"
        )
    if isinstance(error, click.NoSuchOption):
        known = option_names(context.command.get_params(context))
        return f"{context.command_path} has no option {error.option_name}: {did_you_mean(error.option_name, known)}"
    parameter = error.param if isinstance(error, click.BadParameter) else None
    if parameter is None:
        return f"{context.command_path}: {_as_clause(error.format_message())}"
    if isinstance(error, click.MissingParameter):
        return f"{context.command_path}: {_required(parameter, context)}"
    return f"{_source(parameter, context)}: {_as_clause(error.message)}"


def _as_clause(sentence: str) -> str:
    return f"{sentence[:1].lower()}{sentence[1:]}".rstrip(".")


def _required(parameter: click.Parameter, context: click.Context) -> str:
    """What to add to the command line for a parameter that is missing."""
    if isinstance(parameter, click.Argument):
        return f"give {parameter.make_metavar(context)}"
    return f"give --{long_name(parameter)} {parameter.make_metavar(context)}"


def _source(parameter: click.Parameter, context: click.Context) -> str:
    """Where a value came from: the command (for an argument), the environment variable, or the option."""
    if isinstance(parameter, click.Argument):
        return context.command_path
    from_environment = context.get_parameter_source(parameter.name or "") is ParameterSource.ENVIRONMENT
    return str(parameter.envvar) if from_environment else f"--{long_name(parameter)}"


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Ignores signals, so that a second Ctrl-C does not suppress the line that says how to resume."""
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
    """Shows the warnings of the lower floors and of libraries as our own, one line each."""
    shown: set[str] = set()

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        # A command may open a checkpoint several times.
        if str(message) not in shown:
            shown.add(str(message))
            (console.note if type(message) is Notice else console.warn)(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        # A notice is shown whatever the user's filters do with other warnings.
        warnings.simplefilter("always", Notice)
        yield
