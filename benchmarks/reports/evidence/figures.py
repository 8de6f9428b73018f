"""The figures of a row with their intervals and counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustbench_cli.benchmarks.reports.columns import Record

__all__ = ["figures"]

_LEVEL = 0.95


def figures(record: Record, *, counted: bool) -> dict[str, Any]:
    """The measured shares and sizes of a row.

    Args:
        record: The row.
        counted: Whether the row is of scored images, so that its shares are quotients of counts; a mean over corruptions is not.

    Returns:
        For each share its ``value``, the ends of its interval where it has one, and ``numerator`` and ``denominator``, whose
        unit is an image in one draw. Shares that a row does not have are left out.
    """
    images, draws = record["n"], record["repeats"]
    scored = images * draws if counted and images is not None and draws is not None else None
    shares = {
        "cleanAccuracy": ("clean_accuracy", scored),
        "robustAccuracy": ("robust_accuracy", scored),
        "robustAccuracyVote": ("robust_accuracy_vote", images if counted else None),
        "robustAccuracyEveryDraw": ("robust_accuracy_every_draw", images if counted else None),
        "attackSuccessRate": ("attack_success_rate", _attempts(record, scored)),
        "meanCorruptionAccuracy": ("mean_corruption_accuracy", None),
        "certifiedAccuracy": ("certified_accuracy", None),
    }
    found = {name: _share(record, column, count) for name, (column, count) in shares.items()}
    sizes = {"meanL2": record.get("mean_l2"), "meanLinf": record.get("mean_linf")}
    return {name: value for name, value in {**found, **sizes}.items() if value is not None}


def _attempts(record: Record, scored: int | None) -> int | None:
    """What a success rate is divided by: the correct clean predictions, or all attempts to reach one target."""
    if scored is None or record["targeted"] == "all":
        return None
    return scored if record["targeted"] != "no" else round(record["clean_accuracy"] * scored)


def _share(record: Record, column: str, count: int | None) -> Mapping[str, Any] | None:
    value = record.get(column)
    if value is None:
        return None
    low, high = record.get(f"{column}_low"), record.get(f"{column}_high")
    share = {"value": value}
    if low is not None and high is not None:
        share |= {"interval": {"level": _LEVEL, "low": low, "high": high}}
    if count is not None:
        share |= {"numerator": round(value * count), "denominator": count}
    return share
