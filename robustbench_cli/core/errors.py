"""The exception for users' mistakes, the warnings that are notices, and one-line messages for other errors."""

from __future__ import annotations

from robustbench_cli.core.suggest import did_you_mean

__all__ = ["Choice", "Notice", "UserError", "did_you_mean", "is_out_of_memory", "lacks_resources", "one_line"]


class UserError(ValueError):
    """A usage error or invalid input.

    Its message is one line: what is wrong, where, and what would be right. The command line prints this line and exits
    with code 2.
    """


class Notice(UserWarning):
    """A message for the log that needs no action, given by :func:`warnings.warn`.

    The command line prints it as a note, without the word *warning*. With ``-q`` it prints nothing. Repeated notices,
    and notices of other processes, are not printed.
    """


class Choice(Notice):
    """A choice among several options that fit, which the user should know. The command line prints it as a warning."""


def one_line(error: BaseException) -> str:
    """An error's message as one line of at most 300 characters, after the name of its class.

    A :class:`UserError` is complete without the name of its class.

    >>> one_line(KeyError("name"))
    "KeyError: 'name'"
    """
    message = " ".join(str(error).split())
    line = message if isinstance(error, UserError) else f"{type(error).__name__}: {message}".removesuffix(": ")
    return line if len(line) <= 300 else f"{line[:299]}…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not allocate memory on a GPU or on the CPU, where it raises a plain RuntimeError."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    )


def lacks_resources(error: BaseException) -> bool:
    """Whether the machine or a user's limits had too little memory (also for a library's code) or too few threads."""
    phrases = ("failed to map segment", "cannot allocate memory", "can't allocate memory", "can't start new thread")
    return isinstance(error, MemoryError) or any(phrase in str(error).lower() for phrase in phrases)
