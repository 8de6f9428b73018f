"""The one exception for a user's mistake, and how errors and notices are worded."""

from __future__ import annotations

from robustbench_cli.core.suggest import did_you_mean

__all__ = ["Choice", "Notice", "UserError", "did_you_mean", "is_out_of_memory", "lacks_resources", "one_line"]


class UserError(ValueError):
    """The words or an input are wrong.

    Its message is one line that says what is wrong, where, and what would be right. The command line prints that line
    and exits with 2.
    """


class Notice(UserWarning):
    """What a reader of the log may want to know and need not act on, given by :func:`warnings.warn`.

    The command line prints it as a note, without the word *warning*, and not at all with ``-q``. What is read a second time,
    and in another process, is not told again.
    """


class Choice(Notice):
    """What was chosen of several that fit, which the user should know: the command line prints it as a warning."""


def one_line(error: BaseException) -> str:
    """What an error of other people's code says, which can be of many lines, as one line of some 300 characters.

    The kind of the error stands before its words, except for a :class:`UserError`, whose words say all.
    """
    words = " ".join(str(error).split())
    told = words if isinstance(error, UserError) else f"{type(error).__name__}: {words}".removesuffix(": ")
    return told if len(told) <= 300 else f"{told[:299]}…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not allocate what it needed, on a GPU or on the CPU, where it raises a plain RuntimeError."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    )


def lacks_resources(error: BaseException) -> bool:
    """Whether the machine, or what a user's limits allow of it, was too small: memory, also for a library, or threads."""
    words = ("failed to map segment", "cannot allocate memory", "can't allocate memory", "can't start new thread")
    return isinstance(error, MemoryError) or any(each in str(error).lower() for each in words)
