"""Escapes text from files before a person sees it: one function per output format.

Each function takes any text and returns text that is only text in its format. It does not move the cursor, change
colors, hide or reorder letters, end a row, start a formula or open a tag. Letters, digits and usual punctuation do not
change. JSON needs no function, since :func:`json.dumps` escapes all characters outside ASCII.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = [
    "escaped_for_csv",
    "escaped_for_github",
    "escaped_for_latex",
    "escaped_for_markdown",
    "escaped_for_terminal",
    "inert_in_github_logs",
    "shortened",
    "unescaped_from_csv",
]

_FORMULA_STARTS = "=+-@＝＋－＠"  # noqa: RUF001 - spreadsheets accept the full-width forms as well
_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?")
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # In LaTeX's first font encoding these are other characters.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # With some languages a quotation mark is a command; ?` is another character; a bracket is an argument of a row's end.
    '"': r"\char34{}",
    "`": "{`}",
    "[": "{[}",
}
_ACCENTS = {"\u0300", "\u0301", "\u0302", "\u0303", "\u0308", "\u030a", "\u030c", "\u0327"}
"""The combining accents of which LaTeX has a command in each encoding."""
_MARKDOWN = {character: f"\\{character}" for character in "\\|`*~$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

_LONGEST = 500


def escaped_for_terminal(text: str, *, lines: bool = False) -> str:
    r"""Escapes control characters and invisible characters as Python writes them.

    Args:
        text: Any text.
        lines: Whether line ends and tabs stay.

    >>> escaped_for_terminal("red\x1b[31m")
    'red\\x1b[31m'
    """
    if text.isprintable():
        return text
    if lines:
        # Most lines are printable, and a whole line is looked at faster than its characters.
        return "\n".join("\t".join(map(escaped_for_terminal, line.split("\t"))) for line in text.split("\n"))
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def escaped_for_csv(text: str) -> str:
    """Escapes the text of a CSV field: one line, with an apostrophe in front of a formula.

    Numbers stay numbers. An escaped field does not change.

    >>> escaped_for_csv("=1+1"), escaped_for_csv("-1.5")
    ("'=1+1", '-1.5')
    """
    line = escaped_for_terminal(text)
    first = line.lstrip()[:1]
    return f"'{line}" if first and first in _FORMULA_STARTS and not _NUMBER.fullmatch(line) else line


def escaped_for_github(text: str, *, in_property: bool = False) -> str:
    r"""Escapes the text of a workflow command of GitHub Actions: it ends in the same line, and starts no other command.

    Args:
        text: Any text.
        in_property: Whether the text is a property, such as the title, and not the message.

    >>> escaped_for_github("50%\n::error::x"), escaped_for_github("a:b,c", in_property=True)
    ('50%25\\n::error::x', 'a%3Ab%2Cc')
    """
    line = escaped_for_terminal(text).replace("%", "%25")
    return line.replace(":", "%3A").replace(",", "%2C") if in_property else line


def shortened(text: str, *, most: int = _LONGEST) -> str:
    """Cuts a text from a file that no table for people has room for; a CSV file and JSON keep it.

    Args:
        text: Any text.
        most: The largest number of characters.

    >>> shortened("x" * 10_000, most=8)
    'xxxxx...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def inert_in_github_logs(text: str) -> str:
    r"""Changes the lines that GitHub Actions would obey as commands if they are printed in a job.

    Args:
        text: Any lines.

    >>> inert_in_github_logs("  ::add-mask::x\nhrs ##[add-mask]x")
    '  \\u003a:add-mask::x\nhrs #\\u0023[add-mask]x'
    """
    lines = re.sub(r"^(\s*):(?=:)", r"\1\\u003a", text, flags=re.MULTILINE)
    return lines.replace("##[", "#\\u0023[")


def unescaped_from_csv(field: str) -> str:
    """Removes the apostrophe that :func:`escaped_for_csv` puts in front of a formula.

    >>> unescaped_from_csv("'=1+1")
    '=1+1'
    """
    return field[1:] if field.startswith("'") and escaped_for_csv(field[1:]) == field else field


def escaped_for_latex(text: str) -> str:
    r"""Escapes the text of a LaTeX table cell: it has no command, no column and no math, and every LaTeX can set it.

    Accented Latin letters stay. Other characters outside ASCII become their number, since pdfLaTeX refuses them.

    >>> escaped_for_latex(r"a_b & 5% \x")
    'a\\_b \\& 5\\% \\textbackslash{}x'
    """
    # Two hyphens would become a dash, two apostrophes or commas a quotation mark.
    return re.sub(r"([-',])(?=\1)", r"\1{}", "".join(map(_in_latex, escaped_for_terminal(text))))


def _in_latex(character: str) -> str:
    if character.isascii():
        return _LATEX.get(character, character)
    decomposed = unicodedata.normalize("NFD", character)
    base, accents = decomposed[0], {*decomposed[1:]}
    if "\u00c0" <= character <= "\u017f" and base.isascii() and accents and accents <= _ACCENTS:
        return character
    return f"{{[}}U+{ord(character):04X}]"


def escaped_for_markdown(text: str) -> str:
    r"""Escapes the text of a Markdown table cell: no column, line, code, link, math or tag starts or ends in it.

    On GitHub it links no address, mentions nobody and refers to no issue: an empty comment follows ``@``, and ``#`` before a
    digit.

    >>> escaped_for_markdown("a|b<c>")
    'a\\|b&lt;c&gt;'
    """
    line = "".join(_MARKDOWN.get(character, character) for character in escaped_for_terminal(text))
    # GitHub looks for these after it has resolved entities and backslashes.
    line = re.sub(r"@|#(?=\d)|(?<=[Gg][Hh])-(?=\d)", r"\g<0><!-- -->", line.replace("](", "]\\("))
    return re.sub(r"(www)\.", r"\1&#46;", line.replace("://", "&#58;//"), flags=re.IGNORECASE)
