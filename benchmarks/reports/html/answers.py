"""The answer of a report: for each defense one sentence with its accuracies, its strongest attack and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_cli.benchmarks.reports.columns import WORST_CASE, flag_names, threat_text
from robustbench_cli.benchmarks.reports.curves import (
    MODEL,
    Estimate,
    estimate,
    grouped,
    setting_text,
    strength,
)
from robustbench_cli.benchmarks.reports.html.charts import interval_text
from robustbench_cli.benchmarks.reports.html.content import AuditedGroup
from robustbench_cli.benchmarks.reports.html.svg import shortened
from robustbench_cli.benchmarks.reports.model_labels import model_labels
from robustbench_cli.benchmarks.reports.verdicts import AuditedVerdict, VerdictKey, severest, verdict_key

__all__ = ["Answer", "answers"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a report says of one model.

    Attributes:
        label: The name of the model; different for the models of one data set.
        setting: The data.
        sentence: The answer in one sentence.
        verdict: The verdict of the audit; empty without one.
        flags: The flags of the rows that decide.
        clean: The clean accuracy; ``None`` where no row has a radius.
        robust: The robust accuracy at the largest radius.
        smaller: The robust accuracies at smaller radii.
    """

    label: str
    setting: str
    sentence: str
    verdict: str
    flags: tuple[str, ...]
    clean: Estimate | None = None
    robust: Estimate | None = None
    smaller: tuple[float, ...] = ()


def answers(rows: Sequence[dict[str, Any]], verdicts: Sequence[AuditedGroup] | None) -> list[Answer]:
    """One answer for each model, in the order of the table.

    Args:
        rows: All rows as plain data.
        verdicts: What audits found; ``None`` where there was none.
    """
    groups = grouped(rows, MODEL)
    labels = model_labels([members[0] for members in groups.values()])
    audited = severest(verdicts or ())
    return [
        _answer(shortened(label), members, _verdict(members[0], audited))
        for label, members in zip(labels, groups.values(), strict=True)
    ]


def _verdict(row: dict[str, Any], verdicts: Mapping[VerdictKey, AuditedVerdict]) -> str:
    """The verdict on the rows of a model without a corruption; empty without an audit."""
    return verdicts.get(verdict_key(row | {"corruption": None}), ("", ""))[0]


def _answer(label: str, rows: list[dict[str, Any]], verdict: str) -> Answer:
    by_radius: dict[float, list[dict[str, Any]]] = {}
    for row in rows:
        if row["corruption"] is None and row["eps_value"] is not None and row["attack"] != "none":
            by_radius.setdefault(row["eps_value"], []).append(row)
    setting = setting_text(rows[0] | {"corruption": None})
    if not by_radius:
        sentence, flags = _without_radius(rows), _flags(rows)
        return Answer(label=label, setting=setting, sentence=sentence, verdict=verdict, flags=flags)
    radii = sorted(by_radius)
    deciding = [min(by_radius[radius], key=strength) for radius in radii]
    last = deciding[-1]
    clean = estimate(last, "clean")
    return Answer(
        label=label,
        setting=setting,
        sentence=_sentence(clean, deciding, by_radius[radii[-1]]),
        verdict=verdict,
        flags=_flags(deciding),
        clean=clean,
        robust=estimate(last, "robust"),
        smaller=tuple(row["robust_accuracy"] for row in deciding[:-1]),
    )


def _flags(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(flag for row in rows for flag in flag_names(row["flags"])))


def _sentence(clean: Estimate, deciding: Sequence[dict[str, Any]], at_last: Sequence[dict[str, Any]]) -> str:
    """The accuracies at up to three radii, and the strongest attack at the largest."""
    some = deciding if len(deciding) <= 3 else [deciding[0], deciding[len(deciding) // 2], deciding[-1]]
    places = [f"{interval_text(estimate(row, 'robust'))} within {shortened(threat_text(row), most=40)}" for row in some]
    listed = places[0] if len(places) == 1 else f"{', '.join(places[:-1])} and {places[-1]}"
    attacks = [row for row in at_last if row["attack"] not in {WORST_CASE, "none"}]
    if not attacks:
        under = "in the per-image worst case"
    elif len(attacks) == 1:
        under = f"under the only attack, {shortened(attacks[0]['attack'], most=60)}"
    else:
        strongest = min(attacks, key=lambda row: row["robust_accuracy"])
        name = shortened(strongest["attack"], most=60)
        under = (
            f"in the worst case over {len(attacks)} attacks; the strongest alone is {name} "
            f"({100 * strongest['robust_accuracy']:.1f} %)"
        )
    return f"{interval_text(clean)} clean; robust {listed} {under}."


def _without_radius(rows: Sequence[dict[str, Any]]) -> str:
    """What rows at any distance, or without an attack, say."""
    means = [row for row in rows if row["mean_corruption_accuracy"] is not None]
    if means:
        return f"{100 * means[0]['mean_corruption_accuracy']:.1f} % of images are right in the mean over corruptions."
    distances = [row for row in rows if row["eps_value"] is None and row["mean_l2"] is not None]
    if distances:
        nearest = min(distances, key=lambda row: row["mean_l2"])
        name = shortened(nearest["attack"], most=60)
        share = 100 * (nearest["attack_success_rate"] or 0)
        return f"{name} breaks {share:.1f} % of the correctly classified images at a mean l2 distance of {nearest['mean_l2']:.3g}."
    means = [row for row in rows if row["severity"] is None and row["corruption"] is not None]
    lowest = min(means or rows, key=lambda row: row["robust_accuracy"])
    attack = "" if lowest["attack"] == "none" else f" and {lowest['attack']} within {threat_text(lowest)}"
    corruption = "" if lowest["corruption"] is None else f"{lowest['corruption']} {lowest['severity'] or ''}".strip()
    under = f" under {corruption}{attack}" if corruption else " without an attack"
    return f"{interval_text(estimate(lowest, 'robust'))} of the images are right{shortened(under)}."
