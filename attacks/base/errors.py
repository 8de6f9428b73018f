"""The one exception that tells a user of a mistake of theirs."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["UserError", "did_you_mean", "is_out_of_memory", "lacks_resources", "one_line"]


class UserError(ValueError):
    """The words or an input are wrong.

    Its message is one line that says what is wrong, where, and what would be right. The command line prints that line
    and exits with 2.
    """


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Ends a message about an unknown word with the nearest known one, or with all of them where none is near.

    Args:
        word: What the user wrote.
        words: What would have been understood.
    """
    known = sorted(words)
    # One that only goes on is nearer than one of like letters: --epsilon is --eps.
    begun = [each for each in known if _goes_on(each, word) or _goes_on(word, each)]
    near = get_close_matches(word, begun, n=1, cutoff=0) or get_close_matches(word, known, n=1, cutoff=0.51)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(known)}" if known else "there are none"


def _goes_on(begun: str, word: str) -> bool:
    """Whether a word of some length is the beginning of another one, in the middle of a part of it."""
    return len(begun.strip("-")) > 2 and word.startswith(begun) and word[len(begun) :][:1].isalpha()


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
