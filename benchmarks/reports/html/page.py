"""Makes the page of a report: what each section shows, and the template that it fills."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from robustbench_cli import __version__
from robustbench_cli.benchmarks.reports.columns import flag_names
from robustbench_cli.benchmarks.reports.commands import reproducing_command
from robustbench_cli.benchmarks.reports.curves import (
    Estimate,
    RadiusCurve,
    TradeOff,
    decisive_rows,
    model_labels,
    radius_curves,
    setting_text,
    trade_offs,
)
from robustbench_cli.benchmarks.reports.html import charts, pictures
from robustbench_cli.benchmarks.reports.html.answers import Answer, answers
from robustbench_cli.benchmarks.reports.html.content import PageContent
from robustbench_cli.benchmarks.reports.html.gallery import Gallery, galleries
from robustbench_cli.benchmarks.reports.html.svg import shortened
from robustbench_cli.benchmarks.reports.html.tables import (
    Field,
    Table,
    all_rows,
    number,
    percent,
    picture,
    share_matrix,
)
from robustbench_cli.benchmarks.reports.html.worst_case import WorstCase, cells_of, groups_in_table, worst_cases
from robustbench_cli.benchmarks.reports.legend import check_page
from robustbench_cli.benchmarks.reports.readable import records
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.worst_case_flags import QUICK_LOOK
from robustbench_cli.core.escaping import escaped_for_terminal

if TYPE_CHECKING:
    pass

__all__ = ["page"]

_FOLDER = Path(__file__).parent

_MOST_CHARTS = 24
"""The largest number of charts of a kind; the tables have the figures of all."""


def page(content: PageContent) -> str:
    """The page, one HTML document that loads nothing from elsewhere.

    Args:
        content: What it shows.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_visible,
    )
    environment.filters |= {"short": shortened, "tight": _tight, "unbroken": _unbroken}
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    template = environment.get_template("page.html.jinja")
    return template.render(
        page=_Page(content),
        content=content,
        version=__version__,
        # Files of the project, whose hashes the policy of the page allows.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        hashes={"style": _hash(style), "script": _hash(script)},
    )


def _hash(source: str) -> str:
    """A hash as a content security policy takes it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def _visible(value: Any) -> Any:
    """A value with its control characters made visible; the template escapes the rest."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else escaped_for_terminal(value)


def _unbroken(text: str) -> Markup:
    """A text whose options, such as ``--repeats``, stay on one line; a picture as it is."""
    if isinstance(text, Markup):
        return text
    parts = re.split(r"(--[a-z][a-z-]*)", _visible(text))
    return Markup("").join(
        Markup('<span class="option">{}</span>').format(part) if index % 2 else escape(part)
        for index, part in enumerate(parts)
    )


def _tight(text: str) -> Markup:
    """A text whose percent signs stay with their numbers."""
    return escape(_visible(text)).replace(" %", Markup("&nbsp;%"))


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """A chart with its legend and its figures."""

    drawing: Markup
    title: str
    legend: Sequence[tuple[Markup, str]] = ()


@dataclass(frozen=True, kw_only=True)
class _Strips:
    """The strips of one worst case."""

    title: str
    images: int
    broken: int
    expected: float
    rows: Sequence[tuple[str, str, str, str, int, int, int]]
    winners: str
    alternative: str


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
    def quick_look(self) -> str:
        """The note on rows that a quick look cannot vouch for; empty without any."""
        return QUICK_LOOK if any(row["quick_look"] for row in self.rows) else ""

    @cached_property
    def decisive(self) -> list[tuple[str, dict[str, Any]]]:
        """The rows that decide, each with the label of its model."""
        rows = decisive_rows(self.content.table)
        return list(zip(map(shortened, model_labels(rows)), rows, strict=True))

    @cached_property
    def trade_offs(self) -> list[_Panel]:
        """A chart for each threat with several models."""
        return [
            _Panel(
                drawing=charts.trade_off_chart(self._number(), chart),
                title=f"{shortened(chart.threat)}: {shortened(chart.setting)}",
                legend=[(charts.doubt_mark(), shortened(point.doubt)) for point in chart.points if point.flags],
            )
            for chart in self._trade_offs[:_MOST_CHARTS]
        ]

    @cached_property
    def _trade_offs(self) -> list[TradeOff]:
        return [chart for chart in trade_offs(self.content.table) if len(chart.points) > 1]

    @property
    def trade_off_table(self) -> Table:
        """The figures of all charts of clean against robust accuracy."""
        rows = [
            [
                Field(shortened(point.label)),
                Field(shortened(chart.threat)),
                Field(shortened(chart.setting)),
                *(_accuracy(estimate) for estimate in (point.clean, point.robust)),
                Field(
                    "yes" if point.on_front else f"no, flag {shortened(', '.join(point.flags))}" if point.flags else ""
                ),
            ]
            for chart in self._trade_offs
            for point in chart.points
        ]
        headers = [("model", False), ("threat", False), ("data", False), ("clean %", True), ("robust %", True)]
        return Table(caption="Clean and robust accuracy", headers=[*headers, ("Pareto front", False)], rows=rows)

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
        rows = [
            [
                Field(shortened(curve.label)),
                Field(shortened(curve.setting)),
                Field(shortened(f"{curve.norm} {text}"), eps),
                _accuracy(point),
                Field(shortened(attack or "none")),
            ]
            for curves in self._curves
            for curve in curves
            for eps, text, point, attack in zip(curve.eps, curve.eps_text, curve.accuracy, curve.attack, strict=True)
        ]
        headers = [("model", False), ("data", False), ("radius", False), ("robust %", True), ("attack", False)]
        return Table(caption="Robust accuracy at each radius", headers=headers, rows=rows)

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
        return [
            share_matrix(f"Attack success in %, {threat}", "model", _matrix(rows, "attack_success_rate"))
            for threat, rows in self._under_threats()
        ]

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
    def worst_cases(self) -> list[_Strips]:
        """The strips of each model and threat."""
        return [_strips(case, self._titles) for case in worst_cases(self.content)]

    @cached_property
    def findings(self) -> Table:
        """The findings of audits and the flags of rows, with what they mean and what to do."""
        rows = []
        for group in self.content.verdicts or ():
            for finding in group.findings:
                meaning, remedy = check_page(finding.check)
                texts = (group.title, finding.severity, finding.check, finding.evidence, remedy or meaning)
                rows.append([Field(shortened(text, most=600)) for text in texts])
        if self.content.verdicts is None:
            counts = Counter(flag for row in self.rows for flag in flag_names(row["flags"]))
            for flag, count in counts.items():
                meaning, remedy = check_page(flag)
                of_flag = (f"{count} {'row' if count == 1 else 'rows'}", "flag", flag, meaning, remedy)
                rows.append([Field(shortened(text, most=600)) for text in of_flag])
        headers = [(name, False) for name in ("rows", "severity", "check", "evidence", "what to do")]
        return Table(caption="Findings, with the evidence", headers=headers, rows=rows)

    @cached_property
    def galleries(self) -> list[tuple[str, Gallery]]:
        """Each gallery with its title."""
        return [
            (self._titles.get(gallery.result.cell.id, shortened(gallery.result.cell.defense)), gallery)
            for gallery in galleries(self.content, self.notes)
        ]

    @cached_property
    def costs(self) -> Table:
        """The cost of each row, without worst cases, whose cost is the sum of their attacks'."""
        rows = []
        for label, row in zip(model_labels(self.rows), self.rows, strict=True):
            if row["attack"] == "worst-case" or row["forwards"] is None:
                continue
            passes = row["forwards"] + row["backwards"]
            rows.append(
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
            *(
                ("model", False),
                ("attack", False),
                ("threat", False),
                ("forward passes", True),
                ("backward passes", True),
            ),
            *(("passes per image", True), ("seconds", True), ("passes per second", True), ("device", False)),
        ]
        return Table(
            caption="Cost of each row: passes of one image through the model, and wall time", headers=headers, rows=rows
        )

    @property
    def total_cost(self) -> str:
        """The sum of all costs, in words."""
        rows = [row for row in self.rows if row["attack"] != "worst-case" and row["forwards"] is not None]
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
        cells = {row["cell"] for row in self.rows}
        shown = {cell for case_cells in self._combined for cell in case_cells if case_cells[-1] in cells}
        return [result for result in self.content.results if result.cell.id in cells | shown]

    @cached_property
    def _combined(self) -> list[tuple[str, ...]]:
        """The cells of each group of attacks, and that of its worst case last."""
        return [cells_of(results) for results in groups_in_table(self.content)]

    @cached_property
    def reproduce(self) -> Table:
        """The command, the versions and the device behind each row."""
        by_cell = {result.cell.id: result for result in self.content.results}
        rows = []
        for result in self._shown_results:
            line = reproducing_command(result, by_cell) or _NO_COMMAND
            is_command = line != _NO_COMMAND and len(line) <= _LONGEST_COMMAND
            rows.append(
                [
                    Field(_cell_name(result)),
                    Field(line if is_command else shortened(line), kind="code" if is_command else ""),
                    Field(result.cell.id, kind="code"),
                    number(1 + self.environments.index(_versions(result.versions))),
                    Field(shortened(result.device)),
                    Field(result.cell.checkpoint[:12], kind="code"),
                    Field(result.cell.data[:12], kind="code"),
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


def _cell_name(result: Result) -> str:
    cell = result.cell
    return shortened(f"{cell.defense}, {cell.attack_label}, {cell.norm} {result.eps or 'any distance'}")


def _accuracy(estimate: Estimate) -> Field:
    text = f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return Field(text, estimate.value, "num")


def _matrix(rows: Sequence[tuple[str, dict[str, Any]]], column: str) -> dict[str, dict[str, float | None]]:
    values: dict[str, dict[str, float | None]] = {}
    for label, row in rows:
        values.setdefault(label, {})[row["attack"]] = row[column]
    return values


def _title(label: str, row: dict[str, Any]) -> str:
    return shortened(f"{label}, {row['norm']} {row['eps'] or 'any distance'}, {setting_text(row)}")


def _strips(case: WorstCase, titles: dict[str, str]) -> _Strips:
    images = len(case.chosen)
    rows = []
    for index, attack in enumerate(case.attacks):
        count = int((attack.broken > 0.5).sum())
        name = shortened(attack.attack, most=60)
        alternative = f"{name}: {count} of {images} images wrong in most draws"
        color = min(index, len(pictures.CATEGORIES) - 1)
        rows.append(
            (f"w{color}", name, pictures.share_strip(attack.broken), alternative, count, attack.only, attack.strongest)
        )
    title = next((titles[cell] for cell in case.cells if cell in titles), shortened(case.result.cell.defense))
    won = ", ".join(f"{name} on {strongest}" for _, name, _, _, _, _, strongest in rows)
    return _Strips(
        title=title,
        images=images,
        broken=case.broken,
        expected=case.expected,
        rows=rows,
        winners=pictures.category_strip(case.chosen, case.wrong),
        alternative=f"Worst case: {case.broken} of {images} images wrong in most draws, {case.expected:.1f} expected; strongest {won}",
    )
