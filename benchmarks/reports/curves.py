"""The numbers of the charts of robust accuracy against the radius, and the rows that decide in any chart."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from robustbench_cli.benchmarks.reports.columns import WORST_CASE
from robustbench_cli.benchmarks.reports.model_labels import model_labels
from robustbench_cli.benchmarks.reports.readable import records

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MODEL",
    "SETTING",
    "Estimate",
    "RadiusCurve",
    "decisive_rows",
    "estimate",
    "grouped",
    "radius_curves",
    "setting_text",
    "strength",
]

SETTING = ("dataset", "n", "norm", "targeted", "corruption", "severity", "stop_when_decided")
"""The columns in which rows of one chart agree."""

_SUBJECT = (
    *("model", "defense", "checkpoint_sha256", "mean", "std"),
    *("seed", "repeats", "accounting"),
)
"""The columns that distinguish the rows of one chart at one radius."""

MODEL = (*(name for name in SETTING if name not in {"corruption", "severity"}), *_SUBJECT)
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
        key = _key(row, (*SETTING, *_SUBJECT, "eps_value"))
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
    for rows in grouped(decisive_rows(table), SETTING).values():
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
