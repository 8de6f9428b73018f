"""Tables of the page: their texts, the values that they are sorted by, and shades."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from robustbench_cli.benchmarks.reports.columns import Column, flag_names
from robustbench_cli.benchmarks.reports.curves import Estimate, RadiusCurve
from robustbench_cli.benchmarks.reports.html.content import AuditedGroup
from robustbench_cli.benchmarks.reports.html.learning_curves import MEASURED, LearningCurve
from robustbench_cli.benchmarks.reports.html.svg import shortened
from robustbench_cli.benchmarks.reports.legend import check_page
from robustbench_cli.benchmarks.reports.model_labels import model_labels
from robustbench_cli.benchmarks.reports.readable import readable
from robustbench_cli.benchmarks.reports.trade_offs import TradeOff

__all__ = [
    "Field",
    "Table",
    "accuracy",
    "all_rows",
    "class_table",
    "cost_table",
    "curve_table",
    "findings_table",
    "learning_table",
    "number",
    "percent",
    "picture",
    "success_table",
    "trade_off_table",
]


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


def success_table(caption: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """A matrix of models and attacks, with the attack success rates shaded.

    Args:
        caption: What it shows.
        rows: The rows under one threat, each with the label of its model.
    """
    rates: dict[str, dict[str, float | None]] = {}
    for label, row in rows:
        rates.setdefault(label, {})[row["attack"]] = row["attack_success_rate"]
    names = list(dict.fromkeys(name for by_attack in rates.values() for name in by_attack))
    return Table(
        caption=caption,
        headers=[("model", False), *((shortened(name, most=40), True) for name in names)],
        rows=[
            [Field(shortened(label)), *(_shaded(by_attack.get(name)) for name in names)]
            for label, by_attack in rates.items()
        ],
    )


def _shaded(share: float | None) -> Field:
    field = percent(share)
    return field if share is None else Field(field.text, share, f"num q{round(10 * share)}")


_MOST_CLASSES = 20
"""The most classes that a table has."""


def class_table(caption: str, rows: Sequence[tuple[str, Mapping[int, float | None]]]) -> Table:
    """A matrix of models and classes, with shares shaded; of many classes those with the smallest mean share.

    Args:
        caption: What it shows.
        rows: The share of each class, each row with its title.
    """
    labels = sorted({label for _, shares in rows for label in shares})
    if len(labels) > _MOST_CLASSES:
        sums = {label: sum(shares.get(label) or 0 for _, shares in rows) for label in labels}
        labels = sorted(sorted(labels, key=sums.__getitem__)[:_MOST_CLASSES])
        caption = f"{caption}; the {_MOST_CLASSES} classes with the smallest mean"
    return Table(
        caption=caption,
        headers=[("model", False), *((str(label), True) for label in labels)],
        rows=[[Field(shortened(title)), *(_shaded(shares.get(label)) for label in labels)] for title, shares in rows],
    )


def picture(drawing: Markup, value: float) -> Field:
    """A picture that is sorted by a number."""
    return Field(drawing, value, "bar")


def trade_off_table(charts: Sequence[TradeOff]) -> Table:
    """The figures of charts of robust accuracy against clean accuracy, or against sizes.

    Args:
        charts: The charts, all against clean accuracy or all against sizes.
    """
    of_sizes = any(chart.is_of_sizes for chart in charts)
    rows = [
        [
            Field(shortened(point.label)),
            Field(shortened(chart.threat)),
            Field(shortened(chart.setting)),
            *((Field(chart.title), number(point.across.value)) if of_sizes else (accuracy(point.across),)),
            accuracy(point.robust),
            Field("yes" if point.on_front else f"no, {shortened(point.doubt)}" if point.doubt else ""),
        ]
        for chart in charts
        for point in chart.points
    ]
    across = [("of", False), ("size", True)] if of_sizes else [("clean %", True)]
    return Table(
        caption=f"{'Size' if of_sizes else 'Clean'} and robust accuracy",
        headers=[
            ("model", False),
            ("threat", False),
            ("data", False),
            *across,
            ("robust %", True),
            ("Pareto front", False),
        ],
        rows=rows,
    )


def curve_table(curves: Sequence[RadiusCurve]) -> Table:
    """The figures of curves.

    Args:
        curves: The curves.
    """
    rows = [
        [
            Field(shortened(curve.label)),
            Field(shortened(curve.setting)),
            Field(shortened(f"{curve.norm} {text}"), eps),
            accuracy(point),
            Field(shortened(attack or "none")),
        ]
        for curve in curves
        for eps, text, point, attack in zip(curve.eps, curve.eps_text, curve.accuracy, curve.attack, strict=True)
    ]
    headers = [("model", False), ("data", False), ("radius", False), ("robust %", True), ("attack", False)]
    return Table(caption="Robust accuracy at each radius", headers=headers, rows=rows)


def learning_table(curves: Sequence[LearningCurve]) -> Table:
    """The figures of learning curves.

    Args:
        curves: The curves.
    """
    rows = [
        [
            Field(shortened(curve.label)),
            number(point["epoch"]),
            *(percent(point.get(name)) for name in MEASURED),
        ]
        for curve in curves
        for point in curve.points
    ]
    headers = [("training", False), ("epoch", True), *((f"{words} %", True) for words in MEASURED.values())]
    return Table(caption="Accuracy after each epoch", headers=headers, rows=rows)


def accuracy(estimate: Estimate) -> Field:
    """An accuracy in percent with its interval."""
    text = f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return Field(text, estimate.value, "num")


def findings_table(rows: Sequence[dict[str, Any]], verdicts: Sequence[AuditedGroup] | None) -> Table:
    """The findings of audits with what to do; the flags of the rows, with what they mean, where no audit is known.

    Args:
        rows: All rows as plain data.
        verdicts: What audits found; ``None`` where there was none.
    """
    lines: list[tuple[str, ...]] = []
    for group in verdicts or ():
        for finding in group.findings:
            meaning, remedy = check_page(finding.check)
            lines.append((group.title, finding.severity, finding.check, finding.evidence, remedy or meaning))
    if verdicts is None:
        counts = Counter(flag for row in rows for flag in flag_names(row["flags"]))
        for flag, count in counts.items():
            lines.append((f"{count} {'row' if count == 1 else 'rows'}", "flag", flag, *check_page(flag)))
    headers = [(name, False) for name in ("rows", "severity", "check", "evidence", "what to do")]
    fields = [[Field(shortened(text, most=600)) for text in line] for line in lines]
    return Table(caption="Findings, with the evidence", headers=headers, rows=fields)


def cost_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The cost of rows.

    Args:
        rows: Rows that have a cost, as plain data.
    """
    fields = []
    for label, row in zip(model_labels(rows), rows, strict=True):
        passes = row["forwards"] + row["backwards"]
        fields.append(
            [
                Field(shortened(label)),
                Field(shortened(row["attack"])),
                Field(shortened(f"{row['norm']} {row['eps'] or 'any'}"), row["eps_value"]),
                *(number(value) for value in (row["forwards"], row["backwards"])),
                *(number(value, 1) for value in (passes / row["n"], row["seconds"])),
                number(passes / row["seconds"] if row["seconds"] else None),
                Field(shortened(row["device"] or "")),
            ]
        )
    headers = [
        *(("model", False), ("attack", False), ("threat", False), ("forward passes", True), ("backward passes", True)),
        *(("passes per image", True), ("seconds", True), ("passes per second", True), ("device", False)),
    ]
    caption = "Cost of each row: passes of one image through the model, and wall time"
    return Table(caption=caption, headers=headers, rows=fields)
