"""The numbers of the charts of robust accuracy against clean accuracy or a size of the model, with the Pareto front."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from robustbench_cli.benchmarks.reports.columns import flag_names, threat_text
from robustbench_cli.benchmarks.reports.curves import SETTING, Estimate, decisive_rows, estimate, grouped, setting_text
from robustbench_cli.benchmarks.reports.model_labels import model_labels
from robustbench_cli.benchmarks.reports.verdicts import AuditedVerdict, VerdictKey, verdict_key

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Against",
    "TradeOff",
    "TradeOffPoint",
    "front_steps",
    "pareto_front",
    "size_trade_offs",
    "trade_offs",
]

Against = Literal["clean", "parameters", "nonzero", "macs"]
"""What robust accuracy is compared with: clean accuracy, of which more is better, or a size, of which less is better."""

_SIZES: tuple[Against, ...] = ("parameters", "nonzero", "macs")

_TITLES: Mapping[Against, str] = {
    "clean": "clean accuracy",
    "parameters": "parameters",
    "nonzero": "parameters that are not zero",
    "macs": "multiply-accumulates",
}


@dataclass(frozen=True, kw_only=True)
class TradeOffPoint:
    """A model in a chart.

    Attributes:
        label: The name of the model; different for the models of one chart.
        across: Its clean accuracy, or its size, whose interval is a point.
        robust: Its robust accuracy.
        attack: The attack, or the per-image worst case.
        on_front: Whether no other model of the chart is at least as good in both, and better in one by more than both 95 %
            intervals. A model with a doubt is never on the front, and keeps no other model from it.
        doubt: Why it is not compared: the flags of its row, or else the verdict ``broken`` of an audit; empty without a doubt.
    """

    label: str
    across: Estimate
    robust: Estimate
    attack: str
    on_front: bool
    doubt: str = ""

    @property
    def doubt_line(self) -> str:
        """Its label and why it is not compared, for a legend; empty without a doubt."""
        return f"{self.label}: not on the front, {self.doubt}" if self.doubt else ""


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """The models under one threat.

    Attributes:
        setting: What all points have in common, in one line.
        threat: The norm and the radius.
        points: The models in the order of the table.
        against: What robust accuracy is compared with.
    """

    setting: str
    threat: str
    points: tuple[TradeOffPoint, ...]
    against: Against = "clean"

    @property
    def is_of_sizes(self) -> bool:
        """Whether less is better in the horizontal direction."""
        return self.against != "clean"

    @property
    def title(self) -> str:
        """What the horizontal direction is."""
        return _TITLES[self.against]


def trade_offs(
    table: pd.DataFrame,
    verdicts: Mapping[VerdictKey, AuditedVerdict] = MappingProxyType({}),
    against: Against = "clean",
) -> list[TradeOff]:
    """The charts of all threats under which there is a model that has what robust accuracy is compared with.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.
        verdicts: The verdicts of audits; see :func:`~.verdicts.severest`.
        against: What robust accuracy is compared with.
    """
    comparable = [row for row in decisive_rows(table) if against == "clean" or row[against] is not None]
    return [
        TradeOff(
            setting=setting_text(rows[0]),
            threat=threat_text(rows[0]),
            points=tuple(_points(rows, verdicts, against)),
            against=against,
        )
        for rows in grouped(comparable, (*SETTING, "eps_value")).values()
    ]


def _points(
    rows: Sequence[dict[str, Any]], verdicts: Mapping[VerdictKey, AuditedVerdict], against: Against
) -> Iterator[TradeOffPoint]:
    """The models of one chart, in the order of their rows."""
    doubts = [_doubt(row, verdicts) for row in rows]
    goals = [(_more_is_better(_across(row, against), against), estimate(row, "robust")) for row in rows]
    # An accuracy that is too high would hide honest models.
    sound = [goal for goal, doubt in zip(goals, doubts, strict=True) if not doubt]
    for row, label, goal, doubt in zip(rows, model_labels(rows), goals, doubts, strict=True):
        yield TradeOffPoint(
            label=label,
            across=_across(row, against),
            robust=estimate(row, "robust"),
            attack=row["attack"],
            on_front=not doubt and not any(_is_worse(goal, other) for other in sound),
            doubt=doubt,
        )


def size_trade_offs(
    table: pd.DataFrame, verdicts: Mapping[VerdictKey, AuditedVerdict] = MappingProxyType({})
) -> list[TradeOff]:
    """The charts against sizes in which models differ; none of ``nonzero`` where no parameter is zero.

    Args:
        table: See :func:`trade_offs`.
        verdicts: See :func:`trade_offs`.
    """
    seen = set()
    charts = []
    for chart in itertools.chain.from_iterable(trade_offs(table, verdicts, against) for against in _SIZES):
        sizes = tuple(point.across.value for point in chart.points)
        if len({*sizes}) > 1 and (chart.setting, chart.threat, sizes) not in seen:
            charts.append(chart)
        seen.add((chart.setting, chart.threat, sizes))
    return charts


def _across(row: dict[str, Any], against: Against) -> Estimate:
    """What the robust accuracy of a row is compared with."""
    return estimate(row, "clean") if against == "clean" else Estimate(*[float(row[against])] * 3)


def _more_is_better(across: Estimate, against: Against) -> Estimate:
    """A clean accuracy as it is, and a size with a minus sign."""
    return across if against == "clean" else Estimate(-across.value, -across.high, -across.low)


def _doubt(row: dict[str, Any], verdicts: Mapping[VerdictKey, AuditedVerdict]) -> str:
    """Why the robust accuracy of a row is not compared; see :class:`TradeOffPoint`."""
    if flags := flag_names(row["flags"] or ""):
        return f"flag {', '.join(flags)}"
    verdict, evidence = verdicts.get(verdict_key(row), ("consistent", ""))
    return f"verdict broken ({evidence.partition(':')[0]})" if verdict == "broken" else ""


def _is_worse(goal: tuple[Estimate, Estimate], other: tuple[Estimate, Estimate]) -> bool:
    """Whether the other is at least as good in both, and better in one by more than both intervals."""
    pairs = [*zip(goal, other, strict=True)]
    return all(theirs.value >= own.value for own, theirs in pairs) and any(
        theirs.low > own.high for own, theirs in pairs
    )


def front_steps(chart: TradeOff) -> list[tuple[float, float]]:
    """The corners of the Pareto front's line, from left to right.

    They are the models that no other exceeds in both, and between two of them a corner that is as bad as the worse in each.

    Args:
        chart: The models.

    Returns:
        Horizontal values and robust accuracies. A model within chance of the line is on the front, though the line runs
        beside it.
    """
    points = [(point.across.value, point.robust.value) for point in chart.points if point.on_front]
    goals = [(-across if chart.is_of_sizes else across, robust) for across, robust in points]
    line = sorted({point for point, is_best in zip(points, pareto_front(goals), strict=True) if is_best})
    steps = line[:1]
    for left, right in itertools.pairwise(line):
        steps += [(right[0] if chart.is_of_sizes else left[0], min(left[1], right[1])), right]
    return steps


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other point dominates; more is better in both coordinates.

    Args:
        points: The points. Equal points are on the front together.

    >>> pareto_front([(0.9, 0.1), (0.8, 0.5), (0.7, 0.4), (0.8, 0.2)])
    [True, True, False, False]
    """
    best = float("-inf")
    on_front = set()
    # From right to left, a point is on the front if it is higher than all points before it.
    for point in sorted(set(points), reverse=True):
        if point[1] > best:
            on_front.add(point)
            best = point[1]
    return [point in on_front for point in points]
