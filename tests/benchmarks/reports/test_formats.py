from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.benchmarks.reports.cases import Case, SuitePositions, row_cases
from robustbench_cli.benchmarks.reports.formats import Format, as_text, file_endings, format_of_file
from robustbench_cli.cli import tables
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.strict_yaml import Position

from .pipeline_files import read_junit, read_sarif, table

TABLE = pd.DataFrame([{"name": "=1+1", "share": 0.1 + 0.2, "absent": None}, {"name": "b", "share": float("nan")}])


def test_one_entry_adds_a_format_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, its endings and its writer are known to the files of -o as soon as the table of formats has it."""
    added = Format("tsv", (".tsv", ".tab"), lambda table: str(table.to_csv(sep="\t", index=False)), any_table=True)
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, added))
    assert formats.format_names()[-1] == "tsv"
    assert file_endings()[-2:] == [".tsv", ".tab"]
    assert as_text(TABLE, "tsv").startswith("name\tshare\t")
    tables.require_writable([tmp_path / "new" / "a.TAB"])
    tables.write(TABLE, tmp_path / "a.tsv")
    assert (tmp_path / "a.tsv").read_text() == as_text(TABLE, "tsv")


def test_one_entry_adds_a_choice_to_the_command_line(
    advdef: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The help of ``report`` names the format and its ending, once its module is imported again."""
    import importlib
    import sys

    added = Format("tsv", (".tsv",), lambda table: "tsv")
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, added))
    name = "robustbench_cli.cli.commands.report"
    monkeypatch.delitem(sys.modules, name, raising=False)
    try:
        text = " ".join(advdef("report", "--help").out.split())
    finally:
        sys.modules.pop(name, None)
        monkeypatch.undo()
        importlib.import_module(name)
    assert "|".join(["table", *formats.format_names(), "tsv"]) in text
    assert " or .tsv file" in text


def test_csv_is_safe_and_without_noise() -> None:
    """No formula, 12 digits, and an empty field for a missing value."""
    assert as_text(TABLE, "csv") == "name,share,absent\n'=1+1,0.3,\nb,,\n"


def test_json_has_numbers_and_null() -> None:
    """A list of objects."""
    assert json.loads(as_text(TABLE, "json")) == [
        {"name": "=1+1", "share": 0.3, "absent": None},
        {"name": "b", "share": None, "absent": None},
    ]


def test_only_some_formats_take_any_table() -> None:
    """Markdown and LaTeX show the columns of the table of results."""
    assert {".md", ".tex"} <= {*file_endings()}
    assert file_endings(formats.format_names(any_table=True)) == [".csv", ".json"]


@pytest.mark.parametrize(
    ("path", "any_table", "right"), [("a.txt", False, r".csv, .json, .md\b.*"), ("a.md", True, ".csv, .json")]
)
def test_an_ending_without_a_format_is_a_user_error(path: str, any_table: bool, right: str) -> None:
    """The line names the endings that are possible."""
    with pytest.raises(UserError, match=f"^-o {path}: the ending selects the format: give one of {right}$"):
        format_of_file(Path(path), formats.format_names(any_table=any_table))
    assert format_of_file(Path("A.CSV")) == "csv"
    assert format_of_file(Path("A.Evidence.json")) == "evidence"
    assert format_of_file(Path("evidence.json")) == "json"


def test_columns_of_files_are_those_that_the_user_chose() -> None:
    """In this order; a format whose content is fixed takes none."""
    assert as_text(TABLE, "csv", columns=["share", "name"]) == "share,name\n0.3,'=1+1\n,b\n"
    assert [list(row) for row in json.loads(as_text(TABLE, "json", columns=["absent"]))] == [["absent"]] * 2
    assert formats.takes_columns("latex")


def test_a_format_may_have_fixed_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is refused with --columns."""
    monkeypatch.setattr(formats, "FORMATS", (Format("tsv", (".tsv",), lambda table: "tsv"),))
    assert not formats.takes_columns("tsv")


HOSTILE = (
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b]0;title\x07",
    "=HYPERLINK(1)",
    "+1+cmd|' /C calc'!A0",
    "a|b",
    "line\r\nbreak",
    "]]>",
    "%0A::error::x",
    "::set-output name=x::y",
    "--><!--",
    "\"quoted\" 'quotes' `code` [a](javascript:b) ![i](http://a)",
    "\\input{/etc/passwd} $x^2$ {a}_b & #~",
    "\u202eright-to-left\u2066",
    "\x00\x85\u2028\ufffe",
    "{{ 7 * 7 }} {% raw %}",
    "&lt;&amp;",
    "x" * 10_000,
)

names = st.lists(
    st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=3
).map(" ".join)
TEXTS = (
    "dataset",
    "model",
    "checkpoint",
    "defense",
    "attack",
    "norm",
    "eps",
    "eot",
    "flags",
    "cell",
    "device",
    "targeted",
)


def hostile_report(text: str) -> tuple[pd.DataFrame, list[Case]]:
    """A table and its cases in which every text is one and the same."""
    rows = table({"device": "cpu"}, {"device": "cpu", "robust_accuracy": 0.3}).assign(**dict.fromkeys(TEXTS, text))
    rows["mean"] = rows["std"] = rows["precision"] = text
    position = Position(text, 3)
    cases = row_cases(rows, positions=SuitePositions(position, {}))
    cases += row_cases(rows, "error", reasons=[text, text])
    return rows, [*cases, Case(text, text, text, "failed", text, position=position, identity=text)]


class Tags(HTMLParser):
    """The elements of a page with the names of their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[Any] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(tag)


def structure_of_csv(text: str) -> Any:
    lines = list(csv.reader(io.StringIO(text), strict=True))
    fields = [field for line in lines for field in line]
    assert not any(
        field.lstrip()[:1] in {"=", "@", "+", "-"} for field in fields if not re.fullmatch(r"-?[0-9.]+", field)
    )
    return [len(line) for line in lines]


def structure_of_markdown(text: str) -> Any:
    """Rows have as many cells, and no tag, link or picture begins."""
    assert not re.search(r"<[a-zA-Z/!]|(?<!\\)\]\((?!https?://advdef)", re.sub(r"\\\\", "", text))
    return [
        len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in text.splitlines() if line.startswith("|")
    ]


def structure_of_latex(text: str) -> Any:
    """The commands and the braces that are not escaped."""
    assert "\\input" not in text
    return [len(re.findall(r"(?<!\\)(?:\\\\)*&", line)) for line in text.splitlines()]


def shape(value: Any) -> Any:
    """The keys of all objects and the lengths of all lists."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items()}
    return [shape(entry) for entry in value] if isinstance(value, list) else type(value)


STRUCTURES: dict[str, Callable[[str], Any]] = {
    "csv": structure_of_csv,
    "json": lambda text: [list(row) for row in json.loads(text)],
    "markdown": structure_of_markdown,
    "junit": lambda text: [(suite.tests, suite.failures, suite.errors) for suite in read_junit(text)],
    "github": lambda text: [re.findall(r"^::(?:error|warning|notice)", line) for line in text.splitlines()],
    "sarif": lambda text: len(read_sarif(text)["runs"][0]["results"]),
    # How many badges and labels there are follows from the lengths of names, and from how many flags a text has.
    "html": lambda text: {*Tags(text).found},
    "latex": structure_of_latex,
    "evidence": lambda text: shape(json.loads(text)),
    "model-index": lambda text: shape(yaml.safe_load(text)),
    "eval-results": lambda text: shape(yaml.safe_load(text)),
}
"""What a name cannot change in a file, by format; of any other format, its number of lines."""


@pytest.mark.parametrize("name", formats.format_names())
def test_a_hostile_name_is_only_text_in_every_format(name: str) -> None:
    """In every field: the file is well-formed, has the structure of one with a harmless name, and nothing moves a cursor."""
    structure = STRUCTURES.get(name, lambda text: text.count("\n"))

    def written(text: str) -> str:
        rows, cases = hostile_report(text)
        if name == "eval-results":
            rows["dataset"] = "mnist"
        content = as_text(rows, name, cases=lambda: cases)
        assert all(character in "\n\t" or character.isprintable() for character in content)
        content.encode()
        return content

    expected = structure(written("harmless"))

    @settings(max_examples=8, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(names)
    def is_only_text(text: str) -> None:
        # A flag is a name without ";", which separates two of them; an empty name is another report.
        assert structure(written(text.replace(";", "") or "x")) == expected

    for text in (" ".join(HOSTILE), *(text for text in HOSTILE if text[0] in "<=+:{")):
        is_only_text = example(text)(is_only_text)
    is_only_text()
