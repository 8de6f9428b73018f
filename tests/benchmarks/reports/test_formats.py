from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.benchmarks.reports.formats import Format, as_text, file_endings, format_of_file
from robustbench_cli.cli import tables
from robustbench_cli.core.errors import UserError

TABLE = pd.DataFrame([{"name": "=1+1", "share": 0.1 + 0.2, "absent": None}, {"name": "b", "share": float("nan")}])


def test_one_entry_adds_a_format_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, its endings and its writer are known to the files of -o as soon as the table of formats has it."""
    added = Format("tsv", (".tsv", ".tab"), lambda table: str(table.to_csv(sep="\t", index=False)), any_table=True)
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, added))
    assert formats.format_names()[-1] == "tsv"
    assert file_endings()[-2:] == [".tsv", ".tab"]
    assert as_text(TABLE, "tsv").startswith("name\tshare\t")
    tables.require_writable_tables([tmp_path / "new" / "a.TAB"])
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
    assert "table|csv|json|markdown|latex|tsv" in text
    assert ".tex or .tsv" in text


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
    assert file_endings() == [".csv", ".json", ".md", ".tex"]
    assert file_endings(any_table=True) == [".csv", ".json"]


@pytest.mark.parametrize(
    ("path", "any_table", "right"), [("a.txt", False, ".csv, .json, .md, .tex"), ("a.md", True, ".csv, .json")]
)
def test_an_ending_without_a_format_is_a_user_error(path: str, any_table: bool, right: str) -> None:
    """The line names the endings that are possible."""
    with pytest.raises(UserError, match=f"^-o {path}: the ending selects the format: give one of {right}$"):
        format_of_file(Path(path), any_table=any_table)
    assert format_of_file(Path("A.CSV")) == "csv"


def test_columns_of_files_are_those_that_the_user_chose() -> None:
    """In this order; a format whose content is fixed takes none."""
    assert as_text(TABLE, "csv", columns=["share", "name"]) == "share,name\n0.3,'=1+1\n,b\n"
    assert [list(row) for row in json.loads(as_text(TABLE, "json", columns=["absent"]))] == [["absent"]] * 2
    assert formats.takes_columns("latex")


def test_a_format_may_have_fixed_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is refused with --columns."""
    monkeypatch.setattr(formats, "FORMATS", (Format("tsv", (".tsv",), lambda table: "tsv"),))
    assert not formats.takes_columns("tsv")
