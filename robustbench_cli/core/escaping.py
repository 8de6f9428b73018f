"""Text that somebody else chose, a name in a file, on its way to a person: one function for each format.

Each takes any text and gives text that is nothing but text there: it moves no cursor, colors nothing, hides or turns
around no letter, breaks no row, and is no formula and no tag. Text of letters, digits and usual signs stays as it is.
JSON needs none: :func:`json.dumps` escapes what is not ASCII.
"""

from __future__ import annotations

import re

__all__ = ["escaped_for_csv", "escaped_for_markdown", "escaped_for_terminal", "unescaped_from_csv"]

_SIGNS = "=+-@＝＋－＠"  # noqa: RUF001 - which a spreadsheet takes for the others
_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?")
_MARKDOWN = {each: f"\\{each}" for each in "\\|`*"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escaped_for_terminal(text: str, *, lines: bool = False) -> str:
    r"""Text for a terminal: control characters and invisible ones as Python writes them, ``\x1b``.

    Args:
        text: Any.
        lines: Whether line ends and tabs stay, in text of several lines.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(each if each.isprintable() or each in kept else repr(each)[1:-1] for each in text)


def escaped_for_csv(text: str) -> str:
    """Text for a field of a CSV file, which is one line and no formula: before one stands an apostrophe.

    Numbers stay numbers. A field that has been escaped is left as it is.
    """
    line = escaped_for_terminal(text)
    begins = line.lstrip()[:1]
    return f"'{line}" if begins and begins in _SIGNS and not _NUMBER.fullmatch(line) else line


def unescaped_from_csv(field: str) -> str:
    """The text of a field, without the apostrophe that :func:`escaped_for_csv` puts before what would be a formula."""
    return field[1:] if field.startswith("'") and escaped_for_csv(field[1:]) == field else field


def escaped_for_markdown(text: str) -> str:
    """Text for a cell of a table in Markdown: no column, line, code, link or tag begins or ends in it."""
    line = "".join(_MARKDOWN.get(each, each) for each in escaped_for_terminal(text))
    return line.replace("](", "]\\(")
