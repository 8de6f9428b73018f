from __future__ import annotations

import csv
import io
import re
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pylatexenc.latex2text import LatexNodes2Text

from robustbench_cli.core.escaping import (
    escaped_for_csv,
    escaped_for_latex,
    escaped_for_markdown,
    escaped_for_terminal,
    inert_in_github_logs,
    unescaped_from_csv,
)

HOSTILE = [
    "\x1b[31mred\x1b]0;new window title\x07",
    "\x9b31mC1",
    "\x90q\x9c",
    "a\rb",
    "a\nb",
    "a\r\nb",
    "a\x0bb\x0cc\x1cd\x1ee\x85f\u2028g\u2029h",
    "a\tb",
    "a\0b",
    "\x7f\x08\x08over",
    "hrs\u202egnp.exe",
    "\u2066isolated\u2069\u200f",
    "zero\u200bwidth\ufeff\u00ad",
    "\U000e0041tag",
    "\ud800 surrogate",
    "a|b",
    "a\\|b",
    "`code` ``more``",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; &amp; &#60;",
    "[a](javascript:alert(1))",
    "![a](http://example.org/a.png)",
    "**bold** *a*",
    "=cmd|' /C calc'!A0",
    "+1+cmd",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    " =1+1",
    "\uff1d1+1",
    '"quoted", and more',
    "''",
    "",
]
PLAIN = [
    "hrs(channels=[10,10])",
    "torchvision:resnet18",
    "8/255",
    "ResNet-18",
    "a b",
    "naïve",
    "模型",
    "worst-case",
    "0.5",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_terminal_shows_and_obeys_nothing(name: str) -> None:
    """Only printable characters remain, and the escaped ones are readable."""
    shown = escaped_for_terminal(name)
    assert all(unicodedata.category(character)[0] != "C" for character in shown)
    assert all(unicodedata.category(character) not in {"Zl", "Zp"} for character in shown)
    assert escaped_for_terminal(shown) == shown
    assert shown == name or "\\" in shown


def test_text_of_lines_keeps_its_lines() -> None:
    """Line ends and tabs stay; a carriage return, which overwrites a line, does not."""
    assert escaped_for_terminal("a\n\tb\rc\x1b", lines=True) == "a\n\tb\\rc\\x1b"


def row(*fields: str) -> list[list[str]]:
    """The fields that a CSV reader returns for one line."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerow(fields)
    return list(csv.reader(io.StringIO(written.getvalue(), newline="")))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_field_is_one_field_and_no_formula(name: str) -> None:
    """The row has the same number of fields, and none starts a formula."""
    field = escaped_for_csv(name)
    assert row("a", field, "b") == [["a", field, "b"]]
    assert field.lstrip()[:1] not in {*"=+-@\uff1d"} or not field
    assert "\r" not in field and "\n" not in field
    assert escaped_for_csv(field) == field
    assert unescaped_from_csv(field) == escaped_for_terminal(name)


@pytest.mark.parametrize("number", ["-0.5", "-3", "+1e-05", "-.5", "1e400", "-1E+3"])
def test_numbers_stay_numbers(number: str) -> None:
    """Numbers are not taken for formulas."""
    assert escaped_for_csv(number) == number


@pytest.mark.parametrize("name", PLAIN)
def test_usual_names_stay_as_they_are(name: str) -> None:
    """The names of the literature do not change."""
    assert escaped_for_terminal(name) == escaped_for_csv(name) == escaped_for_markdown(name) == name


def inside(tokens: list[Token]) -> list[Token]:
    """All tokens, including nested ones."""
    return [character for token in tokens for character in (token, *inside(token.children or []))]


def cells(name: str) -> list[str]:
    """The texts of a table's cells after rendering the Markdown."""
    line = escaped_for_markdown(name)
    text = f"| defense | robust |\n| :-- | --- |\n| {line} | 12.5 |\n| b | 3 |\n"
    tokens = inside(MarkdownIt("commonmark", {"html": True}).enable("table").parse(text))
    # The empty comments that keep GitHub from linking show nothing.
    tokens = [token for token in tokens if token.content != "<!-- -->"]
    allowed = {f"{kind}_{end}" for kind in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")}
    assert {token.type for token in tokens} <= allowed | {"inline", "text"}
    return [
        "".join(part.content for part in token.children or [] if part.content != "<!-- -->")
        for token in tokens
        if token.type == "inline"
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_cell_of_markdown_holds_the_name(name: str) -> None:
    """The table has two rows of two cells, one with the name, and no tag, code, link or emphasis."""
    assert cells(name) == ["defense", "robust", escaped_for_terminal(name).strip(), "12.5", "b", "3"]


@pytest.mark.parametrize(
    "text", ["http://x.org", "HTTPS://x.org", "www.x.org", "a@x.org", "@user", "see #1", "GH-1", "~~gone~~", "$x$"]
)
def test_github_links_and_mentions_nothing(text: str) -> None:
    """What GitHub's Markdown looks for beside CommonMark is not in the text: addresses, people, issues, strikes and math."""
    written = escaped_for_markdown(text)
    found = re.findall(r"(?i)https?://|www\.|@\w|(?<!&)#\d|gh-\d|(?<!\\)[~$]", written)
    assert found == []
    assert cells(text)[2] == text


def test_no_line_is_a_command_of_github() -> None:
    """A line starts with no ``::``, after spaces either, and has no older command anywhere."""
    lines = inert_in_github_logs("::add-mask::x\n\t ::error::y\nhrs  ##[add-mask]z\na::b").split("\n")
    assert not [line for line in lines if line.lstrip().startswith("::") or "##[" in line]
    assert lines[3] == "a::b"


@given(st.text())
def test_any_text(name: str) -> None:
    """The same holds for arbitrary text that is no number: these stay numbers, also with a sign."""
    assume(not re.fullmatch(r"\s*[-+][0-9.eE+-]+\s*", name))
    test_a_terminal_shows_and_obeys_nothing(name)
    test_a_field_is_one_field_and_no_formula(name)
    assert len(cells(name.replace("_", "").replace("[", ""))) == 6


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_is_text(text: str) -> None:
    """Converted back by a LaTeX parser, it is the text as a terminal shows it, and has no command that could fail."""
    latex = escaped_for_latex(text)
    for command, character in {"textless": "<", "textgreater": ">", "textbar": "|", "char34": '"'}.items():
        # The parser does not know them.
        latex = latex.replace(f"\\{command}{{}}", character)
    shown = re.sub(r"[^\x20-\x7e]", lambda found: f"[U+{ord(found[0]):04X}]", escaped_for_terminal(text))
    assert LatexNodes2Text(strict_latex_spaces=True).latex_to_text(latex) == shown
