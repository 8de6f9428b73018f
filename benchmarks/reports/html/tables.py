"""Tables of the page: their texts, the values that they are sorted by, and shades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from robustbench_cli.benchmarks.reports.columns import Column
from robustbench_cli.benchmarks.reports.html.svg import shortened
from robustbench_cli.benchmarks.reports.readable import readable

__all__ = ["Field", "Table", "all_rows", "number", "percent", "picture", "share_matrix"]


@dataclass(frozen=True)
class Field:
    """A field of a table.

    Attributes:
        text: The text; :class:`~markupsafe.Markup` is a picture.
        value: What it is sorted by, where this is not the text.
        kind: Its class: ``num`` is right-justified, ``code`` is a command, ``q0`` to ``q10`` are shades.
    """

    text: str
    value: float | None = None
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        caption: What it shows.
        headers: Each header, and whether its column is right-justified.
        rows: The fields of each row. The first is the row's header.
        sorts: Whether a reader can sort and filter it.
    """

    caption: str
    headers: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[Field]]
    sorts: bool = True


def percent(share: float | None) -> Field:
    """A share in percent."""
    return Field("-" if share is None else f"{100 * share:.1f}", share, "num")


def number(value: float | None, digits: int = 0) -> Field:
    """A number with thousands separated."""
    return Field("-" if value is None else f"{value:,.{digits}f}", value, "num")


def all_rows(table: Any, rows: Sequence[dict[str, Any]]) -> Table:
    """All rows, with the columns that Markdown has.

    Args:
        table: The rows.
        rows: The same as plain data.
    """
    columns, lines = readable(table)
    headers = [("" if entry.shown is None else entry.shown.header, entry.is_numeric) for entry in columns]
    fields = [
        [
            Field(_cut(entry, text), _sorted_by(entry, row), "num" if entry.is_numeric else "")
            for entry, text in zip(columns, line, strict=True)
        ]
        for row, line in zip(rows, lines, strict=True)
    ]
    return Table(caption="All rows; accuracies in percent with 95 % confidence intervals", headers=headers, rows=fields)


def _cut(column: Column, text: str) -> str:
    return text if column.is_numeric else shortened(text)


def _sorted_by(column: Column, row: dict[str, Any]) -> float | None:
    """The number behind a text."""
    if column.name == "forwards":
        return None if row["forwards"] is None else float(row["forwards"] + row["backwards"])
    value = row["eps_value"] if column.name == "eps" else row[column.name] if column.is_numeric else None
    return float(value) if isinstance(value, int | float) else None


def share_matrix(caption: str, corner: str, values: dict[str, dict[str, float | None]]) -> Table:
    """A matrix of shares whose fields are shaded.

    Args:
        caption: What it shows.
        corner: The header of the row headers.
        values: The shares by row and column.
    """
    names = list(dict.fromkeys(name for row in values.values() for name in row))
    rows = []
    for label, row in values.items():
        shares = [row.get(name) for name in names]
        rows.append([Field(shortened(label)), *(_shaded(share) for share in shares)])
    return Table(
        caption=caption, headers=[(corner, False), *((shortened(name, most=40), True) for name in names)], rows=rows
    )


def _shaded(share: float | None) -> Field:
    field = percent(share)
    return field if share is None else Field(field.text, share, f"num q{round(10 * share)}")


def picture(drawing: Markup, value: float) -> Field:
    """A picture that is sorted by a number."""
    return Field(drawing, value, "bar")
