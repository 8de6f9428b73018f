"""The numbers of two charts: the success of each attack on each model, and certified beside attacked accuracy."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustbench_cli.benchmarks.reports.columns import threat_text
from robustbench_cli.benchmarks.reports.curves import decisive_rows, setting_text
from robustbench_cli.benchmarks.reports.model_labels import model_labels
from robustbench_cli.benchmarks.reports.readable import records

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AttackChart", "CertifiedCurve", "attack_charts", "certified_curves"]


@dataclass(frozen=True, kw_only=True)
class AttackChart:
    """The success of attacks under one threat.

    Attributes:
        setting: What all models have in common, in one line.
        threat: The norm and the radius.
        attacks: The attacks, in the order of the table.
        models: The name of each model, and the success rate of each attack on it in [0, 1]; ``None`` where it did not run.
    """

    setting: str
    threat: str
    attacks: tuple[str, ...]
    models: tuple[tuple[str, tuple[float | None, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class CertifiedCurve:
    """The accuracy of a model under attack and its certified accuracy, by the radius.

    Attributes:
        label: The name of the model.
        setting: What all curves of one chart have in common, in one line.
        norm: The norm of the radii.
        eps: The radii, rising.
        eps_text: The radii as the user wrote them.
        robust: The robust accuracy at each radius.
        certified: The certified accuracy at each radius.
    """

    label: str
    setting: str
    norm: str
    eps: tuple[float, ...]
    eps_text: tuple[str, ...]
    robust: tuple[float, ...]
    certified: tuple[float, ...]


def attack_charts(table: pd.DataFrame) -> list[AttackChart]:
    """The success of all attacks, for each threat with a radius.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.
    """
    groups: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in records(table):
        if row["attack"] != "none" and row["eps_value"] and row["attack_success_rate"] is not None:
            groups[setting_text(row), threat_text(row)].append(row)
    charts = []
    for (setting, threat), rows in groups.items():
        rates: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for row, label in zip(rows, model_labels(rows), strict=True):
            # The same attack with fewer draws is another row; the stronger one counts.
            before = rates[label].get(row["attack"], 0)
            rates[label][row["attack"]] = max(before, row["attack_success_rate"])
        attacks = tuple(dict.fromkeys(row["attack"] for row in rows))
        models = tuple((label, tuple(map(by_attack.get, attacks))) for label, by_attack in rates.items())
        charts.append(AttackChart(setting=setting, threat=threat, attacks=attacks, models=models))
    return charts


def certified_curves(table: pd.DataFrame) -> list[CertifiedCurve]:
    """The curves of all models that have a certificate; those of one setting and norm come one after another.

    Args:
        table: The rows; without the column ``certified_accuracy`` there is no curve.
    """
    rows = [row for row in decisive_rows(table) if row.get("certified_accuracy") is not None]
    groups: defaultdict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row, label in zip(rows, model_labels(rows), strict=True):
        groups[setting_text(row), row["norm"], label].append(row)
    curves = []
    for (setting, norm, label), members in sorted(groups.items(), key=lambda group: group[0][:2]):
        members.sort(key=lambda row: row["eps_value"])
        curves.append(
            CertifiedCurve(
                label=label,
                setting=setting,
                norm=norm,
                eps=tuple(row["eps_value"] for row in members),
                eps_text=tuple(row["eps"] for row in members),
                robust=tuple(row["robust_accuracy"] for row in members),
                certified=tuple(row["certified_accuracy"] for row in members),
            )
        )
    return curves
