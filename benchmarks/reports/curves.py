"""The numbers of a report's charts: robust accuracy against the radius, and clean against robust accuracy with the Pareto front."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from robustbench_cli.benchmarks.reports.columns import WORST_CASE, flag_names, threat_text
from robustbench_cli.benchmarks.reports.model_labels import model_labels
from robustbench_cli.benchmarks.reports.readable import records
from robustbench_cli.benchmarks.reports.verdicts import AuditedVerdict, VerdictKey, verdict_key

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MODEL",
    "Estimate",
    "RadiusCurve",
    "TradeOff",
    "TradeOffPoint",
    "decisive_rows",
    "estimate",
    "front_line",
    "grouped",
    "pareto_front",
    "radius_curves",
    "setting_text",
    "strength",
    "trade_offs",
]

_SETTING = ("dataset", "n", "norm", "targeted", "corruption", "severity", "stop_when_decided")
"""The columns in which rows of one chart agree."""

_SUBJECT = (
    *("model", "defense", "checkpoint_sha256", "mean", "std"),
    *("seed", "repeats", "accounting"),
)
"""The columns that distinguish the rows of one chart at one radius."""

MODEL = (*(name for name in _SETTING if name not in {"corruption", "severity"}), *_SUBJECT)
"""The columns in which the rows of one model under attacks in one norm agree."""


@dataclass(frozen=True)
class Estimate:
    """An accuracy in [0, 1].

    Attributes:
        value: The accuracy.
        low: Lower end of its 95 % confidence interval.
        high: Upper end of that interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RadiusCurve:
    """The robust accuracy of one model against the radius.

    Attributes:
        label: The name of the model; different for the models of one setting.
        setting: What all curves of one chart have in common, in one line.
        norm: The norm of the radii.
        eps: The radii, rising; the first is 0, where the accuracy is the clean one.
        eps_text: The radii as the user wrote them.
        accuracy: The accuracy at each radius, under the strongest attack or the per-image worst case.
        attack: The attack at each radius; empty at 0.
    """

    label: str
    setting: str
    norm: str
    eps: tuple[float, ...]
    eps_text: tuple[str, ...]
    accuracy: tuple[Estimate, ...]
    attack: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TradeOffPoint:
    """A model in a chart of clean against robust accuracy.

    Attributes:
        label: The name of the model; different for the models of one chart.
        clean: Its clean accuracy.
        robust: Its robust accuracy.
        attack: The attack, or the per-image worst case.
        on_front: Whether no other model of the chart is at least as good in both accuracies, and better in one by more than
            both 95 % intervals. A model with a doubt is never on the front, and keeps no other model from it.
        doubt: Why it is not compared: the flags of its row, or else the verdict ``broken`` of an audit; empty without a doubt.
    """

    label: str
    clean: Estimate
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
    """

    setting: str
    threat: str
    points: tuple[TradeOffPoint, ...]


def decisive_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One row for each model and threat with a radius: the per-image worst case, or else the row of the strongest attack.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.

    Returns:
        The rows as plain data, in the order of the table. Rows without an attack and means over corruptions are left out.
    """
    chosen: dict[Hashable, dict[str, Any]] = {}
    for row in records(table):
        if row["attack"] == "none" or row["eps_value"] is None or row["mean_corruption_accuracy"] is not None:
            continue
        key = _key(row, (*_SETTING, *_SUBJECT, "eps_value"))
        other = chosen.get(key)
        if other is None or strength(row) < strength(other):
            chosen[key] = row
    return list(chosen.values())


def strength(row: dict[str, Any]) -> tuple[bool, float]:
    """Sorts the row that decides first: the worst case, or else that of the strongest attack.

    Args:
        row: A row of an attack at a radius, as plain data.
    """
    return row["attack"] != WORST_CASE, row["robust_accuracy"]


def _key(row: dict[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def setting_text(row: dict[str, Any]) -> str:
    """What the rows of one chart have in common, in one line.

    Args:
        row: One of them.
    """
    parts = [row["dataset"], f"{row['n']} images"]
    if row["corruption"] is not None:
        parts.append(f"{row['corruption']} {row['severity']}")
    if row["targeted"] != "no":
        parts.append(f"targeted {row['targeted']}")
    if row["stop_when_decided"] is not None:
        parts.append(f"decided at {row['stop_when_decided']:g}")
    return ", ".join(parts)


def radius_curves(table: pd.DataFrame) -> list[RadiusCurve]:
    """The curves of all models with two radii or more.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.

    Returns:
        The curves; those of one setting and norm come one after another.
    """
    curves = []
    for rows in grouped(decisive_rows(table), _SETTING).values():
        by_model = grouped(
            [row | {"label": label} for row, label in zip(rows, model_labels(rows), strict=True)], _SUBJECT
        )
        for of_model in by_model.values():
            points = sorted((row for row in of_model if row["eps_value"] > 0), key=lambda row: row["eps_value"])
            if len(points) < 2:
                continue
            curves.append(
                RadiusCurve(
                    label=points[0]["label"],
                    setting=setting_text(points[0]),
                    norm=points[0]["norm"],
                    eps=(0.0, *(row["eps_value"] for row in points)),
                    eps_text=("0", *(row["eps"] for row in points)),
                    accuracy=(estimate(points[0], "clean"), *(estimate(row, "robust") for row in points)),
                    attack=("", *(row["attack"] for row in points)),
                )
            )
    return curves


def trade_offs(
    table: pd.DataFrame, verdicts: Mapping[VerdictKey, AuditedVerdict] = MappingProxyType({})
) -> list[TradeOff]:
    """Clean against robust accuracy, for each threat under which there is a model.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.
        verdicts: The verdicts of audits; see :func:`~.verdicts.severest`.
    """
    charts = []
    for rows in grouped(decisive_rows(table), (*_SETTING, "eps_value")).values():
        doubts = [_doubt(row, verdicts) for row in rows]
        places = [(estimate(row, "clean"), estimate(row, "robust")) for row in rows]
        # An accuracy that is too high would hide honest models.
        sound = [place for place, doubt in zip(places, doubts, strict=True) if not doubt]
        charts.append(
            TradeOff(
                setting=setting_text(rows[0]),
                threat=threat_text(rows[0]),
                points=tuple(
                    TradeOffPoint(
                        label=label,
                        clean=place[0],
                        robust=place[1],
                        attack=row["attack"],
                        on_front=not doubt and not any(_is_worse(place, other) for other in sound),
                        doubt=doubt,
                    )
                    for row, label, place, doubt in zip(rows, model_labels(rows), places, doubts, strict=True)
                ),
            )
        )
    return charts


def _doubt(row: dict[str, Any], verdicts: Mapping[VerdictKey, AuditedVerdict]) -> str:
    """Why the robust accuracy of a row is not compared; see :class:`TradeOffPoint`."""
    if flags := flag_names(row["flags"] or ""):
        return f"flag {', '.join(flags)}"
    verdict, evidence = verdicts.get(verdict_key(row), ("consistent", ""))
    return f"verdict broken ({evidence.partition(':')[0]})" if verdict == "broken" else ""


def _is_worse(place: tuple[Estimate, Estimate], other: tuple[Estimate, Estimate]) -> bool:
    """Whether the other is at least as good in both accuracies, and better in one by more than both intervals."""
    pairs = [*zip(place, other, strict=True)]
    return all(theirs.value >= own.value for own, theirs in pairs) and any(
        theirs.low > own.high for own, theirs in pairs
    )


def front_line(chart: TradeOff) -> list[tuple[float, float]]:
    """The corners of the Pareto front's line, rising in the clean accuracy: the models that no other exceeds in both.

    Args:
        chart: The models.

    Returns:
        Clean and robust accuracies. A model within chance of the line is on the front, though the line runs beside it.
    """
    points = [(point.clean.value, point.robust.value) for point in chart.points if point.on_front]
    return sorted(point for point, is_best in zip(points, pareto_front(points), strict=True) if is_best)


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


def estimate(row: dict[str, Any], kind: Literal["clean", "robust"]) -> Estimate:
    """An accuracy of a row with its interval.

    Args:
        row: The row as plain data.
        kind: Which accuracy.
    """
    return Estimate(*(row[f"{kind}_accuracy{end}"] for end in ("", "_low", "_high")))


def grouped(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[Hashable, list[dict[str, Any]]]:
    """Rows by the values of some columns, in the order of their first row.

    Args:
        rows: Rows as plain data.
        names: The columns.
    """
    groups: dict[Hashable, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_key(row, names), []).append(row)
    return groups
