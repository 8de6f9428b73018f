"""Makes the page of a report: what each section shows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from markupsafe import Markup

from robustbench_cli.benchmarks.reports.columns import WORST_CASE
from robustbench_cli.benchmarks.reports.commands import reproducing_command
from robustbench_cli.benchmarks.reports.curves import (
    Estimate,
    RadiusCurve,
    decisive_rows,
    radius_curves,
    setting_text,
)
from robustbench_cli.benchmarks.reports.html import charts
from robustbench_cli.benchmarks.reports.html.answers import Answer, answers
from robustbench_cli.benchmarks.reports.html.content import PageContent
from robustbench_cli.benchmarks.reports.html.gallery import Gallery, galleries
from robustbench_cli.benchmarks.reports.html.learning_curves import MEASURED, LearningCurve, learning_curves
from robustbench_cli.benchmarks.reports.html.svg import shortened
from robustbench_cli.benchmarks.reports.html.tables import (
    Field,
    Table,
    all_rows,
    class_table,
    cost_table,
    curve_table,
    findings_table,
    learning_table,
    number,
    percent,
    picture,
    success_table,
    trade_off_table,
)
from robustbench_cli.benchmarks.reports.html.template import rendered
from robustbench_cli.benchmarks.reports.html.worst_case import (
    Strips,
    WorstCase,
    cells_of,
    groups_in_table,
    strips,
    worst_cases,
)
from robustbench_cli.benchmarks.reports.legend import quick_look
from robustbench_cli.benchmarks.reports.model_labels import model_labels
from robustbench_cli.benchmarks.reports.readable import records
from robustbench_cli.benchmarks.reports.trade_offs import TradeOff, size_trade_offs, trade_offs
from robustbench_cli.benchmarks.reports.verdicts import severest
from robustbench_cli.benchmarks.store.records import Result

__all__ = ["page"]

_MOST_CHARTS = 24
"""The largest number of charts of a kind; the tables have the figures of all."""


def page(content: PageContent) -> str:
    """The page, one HTML document that loads nothing from elsewhere.

    Args:
        content: What it shows.
    """
    return rendered("page.html.jinja", page=_Page(content), content=content)


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """A chart with its legend and its figures."""

    drawing: Markup
    title: str
    legend: Sequence[tuple[Markup, str]] = ()


@dataclass
class _Page:
    """What the template asks for. Each section is computed once.

    Attributes:
        content: What the page shows.
        notes: Lines on what the gallery lacks.
    """

    content: PageContent
    notes: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def _number(self) -> str:
        return f"p{next(self._numbers)}"

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows as plain data."""
        return records(self.content.table)

    @cached_property
    def answers(self) -> list[tuple[Answer, Markup | None]]:
        """Each answer with its picture."""
        return [(answer, self._answer_bar(answer)) for answer in answers(self.rows, self.content.verdicts)]

    def _answer_bar(self, answer: Answer) -> Markup | None:
        if answer.clean is None or answer.robust is None:
            return None
        return charts.accuracy_bar(self._number(), answer.label, answer.clean, answer.robust, answer.smaller)

    @property
    def quick_look(self) -> list[str]:
        """The line on rows that are a quick look."""
        return quick_look(self.content.table)

    @property
    def models(self) -> int:
        """The number of models in the table."""
        return len({tuple(row[name] for name in ("model", "defense", "checkpoint_sha256")) for row in self.rows})

    @cached_property
    def decisive(self) -> list[tuple[str, dict[str, Any]]]:
        """The rows that decide, each with the label of its model."""
        rows = decisive_rows(self.content.table)
        return list(zip(map(shortened, model_labels(rows)), rows, strict=True))

    @cached_property
    def trade_offs(self) -> list[_Panel]:
        """A chart for each threat with several models."""
        return self._trade_off_panels(self._trade_offs)

    @cached_property
    def size_trade_offs(self) -> list[_Panel]:
        """A chart for each threat and size in which models differ."""
        return self._trade_off_panels(self._size_trade_offs)

    def _trade_off_panels(self, shown: Sequence[TradeOff]) -> list[_Panel]:
        return [
            _Panel(
                drawing=charts.trade_off_chart(self._number(), chart),
                title=f"{shortened(chart.threat)}: {shortened(chart.setting)}",
                legend=[(charts.doubt_mark(), shortened(point.doubt_line)) for point in chart.points if point.doubt],
            )
            for chart in shown[:_MOST_CHARTS]
        ]

    @cached_property
    def _trade_offs(self) -> list[TradeOff]:
        every = trade_offs(self.content.table, severest(self.content.verdicts or ()))
        return [chart for chart in every if len(chart.points) > 1]

    @cached_property
    def _size_trade_offs(self) -> list[TradeOff]:
        return size_trade_offs(self.content.table, severest(self.content.verdicts or ()))

    @property
    def trade_off_table(self) -> Table:
        """The figures of all charts of clean against robust accuracy."""
        return trade_off_table(self._trade_offs)

    @property
    def size_trade_off_table(self) -> Table:
        """The figures of all charts of sizes against robust accuracy."""
        return trade_off_table(self._size_trade_offs)

    @cached_property
    def _curves(self) -> list[list[RadiusCurve]]:
        """The curves of each chart."""
        groups: dict[tuple[str, str], list[RadiusCurve]] = {}
        for curve in radius_curves(self.content.table):
            groups.setdefault((curve.setting, curve.norm), []).append(curve)
        return list(groups.values())

    @cached_property
    def curves(self) -> list[_Panel]:
        """Few curves in one chart, many in one chart each with the others in gray."""
        panels: list[_Panel] = []
        for curves in self._curves:
            few = len(curves) <= charts.SERIES
            for shown in [curves] if few else [[curve] for curve in curves]:
                if len(panels) == _MOST_CHARTS:
                    return panels
                drawing = charts.radius_chart(self._number(), shown, among=() if few else curves[:_MOST_CHARTS])
                legend = [(charts.legend_mark(index), shortened(curve.label)) for index, curve in enumerate(shown)]
                title = f"{shown[0].norm}: {shortened(shown[0].setting)}"
                panels.append(_Panel(drawing=drawing, title=title, legend=legend))
        return panels

    @property
    def curve_table(self) -> Table:
        """The figures of all curves."""
        return curve_table(list(itertools.chain.from_iterable(self._curves)))

    @cached_property
    def _learning_curves(self) -> list[LearningCurve]:
        """The learning curves of the checkpoints behind the rows."""
        return learning_curves(self._shown_results)

    @cached_property
    def learning(self) -> list[_Panel]:
        """A chart for each training."""
        return [
            _Panel(
                drawing=charts.learning_chart(self._number(), curve),
                title=shortened(curve.label),
                legend=[
                    (charts.legend_mark(index), words)
                    for index, (name, words) in enumerate(MEASURED.items())
                    if name in curve.points[0]
                ],
            )
            for curve in self._learning_curves[:_MOST_CHARTS]
        ]

    @property
    def learning_table(self) -> Table:
        """The figures of all learning curves."""
        return learning_table(self._learning_curves)

    def _under_threats(self) -> Iterator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
        """The rows of attacks under each threat, with the labels of their models."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            if row["attack"] != "none" and row["mean_corruption_accuracy"] is None:
                threat = f"{row['norm']} {row['eps'] or 'any distance'}, {setting_text(row)}"
                groups.setdefault(threat, []).append(row)
        for threat, rows in groups.items():
            yield shortened(threat), list(zip(model_labels(rows), rows, strict=True))

    @cached_property
    def success(self) -> list[Table]:
        """A matrix of models and attacks for each threat."""
        return [success_table(f"Attack success in %, {threat}", rows) for threat, rows in self._under_threats()]

    @cached_property
    def efficiency(self) -> Table | None:
        """The Defense Efficiency Scores of the rows that decide; ``None`` without any."""
        scored = [(label, row) for label, row in self.decisive if row["des"] is not None and not row["flags"]]
        if not scored:
            return None
        scores = [Estimate(row["des"], row["des_low"], row["des_high"]) for _, row in scored]
        shown = [
            end
            for (_, row), score in zip(scored, scores, strict=True)
            if not row["clean_accuracy_loss_within_interval"]
            for end in (score.low, score.high)
            if abs(end) < 100
        ]
        limits = min(-1.0, *shown, 0.0), max(1.0, *shown, 0.0) * 1.1
        rows = [
            [
                Field(label),
                Field(shortened(f"{row['norm']} {row['eps']}"), row["eps_value"]),
                *self._score(label, row, score, limits),
            ]
            for (label, row), score in zip(scored, scores, strict=True)
        ]
        headers = [("model", False), ("threat", False), ("DES [95 %]", True), ("", False)]
        caption = "Defense Efficiency Score; none where the loss of clean accuracy is not significant; rows with flags are left out"
        return Table(caption=caption, headers=headers, rows=rows)

    def _score(
        self, label: str, row: dict[str, Any], score: Estimate, limits: tuple[float, float]
    ) -> tuple[Field, Field]:
        """A score and its picture; neither where the loss that it divides by is not significant."""
        if row["clean_accuracy_loss_within_interval"]:
            return Field("not significant", score.value, "num"), Field("")
        text = f"{score.value:.1f} [{score.low:.1f}, {score.high:.1f}]"
        drawing = charts.score_bar(self._number(), label, score, limits)
        return Field(text, score.value, "num"), picture(drawing, score.value)

    @cached_property
    def certified(self) -> Table | None:
        """Certified beside attacked accuracy; ``None`` without certificates."""
        rows = []
        for label, row in self.decisive:
            certified, gap = row.get("certified_accuracy"), row.get("certified_gap")
            if certified is None or gap is None:
                continue
            parts = [("certified", certified), ("undecided", gap), ("broken", max(0.0, 1 - certified - gap))]
            rows.append(
                [
                    Field(label),
                    Field(shortened(f"{row['norm']} {row['eps']}"), row["eps_value"]),
                    *(percent(share) for _, share in parts),
                    percent(row["robust_accuracy"]),
                    picture(charts.share_bar(self._number(), label, parts), certified),
                ]
            )
        headers = [
            *(("model", False), ("threat", False), ("certified %", True), ("undecided %", True), ("broken %", True)),
            *(("robust % under attack", True), ("", False)),
        ]
        caption = "Images that are proven right, broken by an attack or misclassified, and neither"
        return Table(caption=caption, headers=headers, rows=rows) if rows else None

    @cached_property
    def _titles(self) -> dict[str, str]:
        """The title of each row by its cell."""
        return {row["cell"]: _title(label, row) for label, row in zip(model_labels(self.rows), self.rows, strict=True)}

    @cached_property
    def worst_cases(self) -> list[Strips]:
        """The strips of each model and threat."""
        return [strips(case, self._titles) for case in self._worst_cases]

    @cached_property
    def _worst_cases(self) -> list[WorstCase]:
        return [*worst_cases(self.content)]

    @cached_property
    def classes(self) -> list[Table]:
        """The recall and the precision of each class in the worst cases; empty without any."""
        recalls, precisions = [], []
        for case in self._worst_cases:
            title = case.title(self._titles)
            recalls.append((title, {entry.label: entry.recall[0] for entry in case.classes}))
            precisions.append(
                (title, {entry.label: entry.precision[0] if entry.precision else None for entry in case.classes})
            )
        if not recalls:
            return []
        return [
            class_table("Robust recall of each class in %", recalls),
            class_table("Robust precision of each class in %", precisions),
        ]

    @cached_property
    def findings(self) -> Table:
        """The findings of audits, or the flags of rows where no audit is known."""
        return findings_table(self.rows, self.content.verdicts)

    @cached_property
    def galleries(self) -> list[tuple[str, Gallery]]:
        """Each gallery with its title."""
        return [
            (self._titles.get(gallery.result.cell.id, shortened(gallery.result.cell.defense)), gallery)
            for gallery in galleries(self.content, self.notes)
        ]

    @cached_property
    def _own_costs(self) -> list[dict[str, Any]]:
        """The rows with a cost, without worst cases, whose cost is the sum of their attacks'."""
        return [row for row in self.rows if row["attack"] != WORST_CASE and row["forwards"] is not None]

    @property
    def costs(self) -> Table:
        """The cost of each row."""
        return cost_table(self._own_costs)

    @property
    def total_cost(self) -> str:
        """The sum of all costs, in words."""
        rows = self._own_costs
        passes = sum(row["forwards"] + row["backwards"] for row in rows)
        seconds = sum(row["seconds"] for row in rows)
        return f"{passes:,.0f} passes and {seconds:,.0f} s in {len(rows)} {'row' if len(rows) == 1 else 'rows'}"

    @cached_property
    def all_rows(self) -> Table:
        """The table of results."""
        return all_rows(self.content.table, self.rows)

    @cached_property
    def environments(self) -> list[str]:
        """The different versions that computed the rows, each in one line."""
        return list(dict.fromkeys(_versions(result.versions) for result in self._shown_results))

    @cached_property
    def _shown_results(self) -> list[Result]:
        """The results behind the rows; behind a worst case those of its attacks."""
        cells = {row["cell"] for row in self.rows}
        for *of_attacks, worst_case in map(cells_of, groups_in_table(self.content)):
            if worst_case in cells:
                cells.update(of_attacks)
        return [result for result in self.content.results if result.cell.id in cells]

    @cached_property
    def reproduce(self) -> Table:
        """The command, the versions and the device behind each row."""
        by_cell = {result.cell.id: result for result in self.content.results}
        rows = []
        for result in self._shown_results:
            cell, line = result.cell, reproducing_command(result, by_cell) or _NO_COMMAND
            is_command = line != _NO_COMMAND and len(line) <= _LONGEST_COMMAND
            rows.append(
                [
                    Field(
                        shortened(f"{cell.defense}, {cell.attack_label}, {cell.norm} {result.eps or 'any distance'}")
                    ),
                    Field(line if is_command else shortened(line), kind="code" if is_command else ""),
                    Field(cell.id, kind="code"),
                    number(1 + self.environments.index(_versions(result.versions))),
                    Field(shortened(result.device)),
                    Field(cell.checkpoint[:12], kind="code"),
                    Field(cell.data[:12], kind="code"),
                ]
            )
        headers = [
            *(("row", False), ("command", False), ("cell", False), ("environment", True), ("device", False)),
            *(("weights sha256", False), ("data sha256", False)),
        ]
        return Table(caption="The command that computes each cell again", headers=headers, rows=rows)


_LONGEST_COMMAND = 1000
"""The largest number of characters of a command that is shown."""

_NO_COMMAND = "no command of its own (a cascade, a chain of radii, or a file that is not known): run its suite again"


def _versions(versions: dict[str, str]) -> str:
    return (
        shortened(", ".join(f"{name} {version}" for name, version in sorted(versions.items())), most=400) or "unknown"
    )


def _title(label: str, row: dict[str, Any]) -> str:
    return shortened(f"{label}, {row['norm']} {row['eps'] or 'any distance'}, {setting_text(row)}")
