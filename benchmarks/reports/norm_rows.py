"""The accuracies of each model in several norms, and against the union of the norms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_cli.attacks.base.norm import NORMS
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws
from robustbench_cli.benchmarks.reports.columns import flag_names
from robustbench_cli.benchmarks.reports.curves import grouped, setting_text, strength
from robustbench_cli.benchmarks.reports.model_labels import model_labels
from robustbench_cli.benchmarks.reports.readable import ReadableTable, records, share_text
from robustbench_cli.benchmarks.reports.scored_rows import ScoredRow
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UNION", "norms_table", "readable_norms"]

UNION = "union"
"""The norm of a row over all norms."""

_MODEL = (
    *("dataset", "model", "checkpoint", "checkpoint_sha256", "defense", "mean", "std"),
    *("corruption", "severity", "targeted", "n", "repeats", "seed", "accounting", "stop_when_decided"),
)
"""The columns in which the rows of one model agree."""


def norms_table(rows: Sequence[ScoredRow]) -> pd.DataFrame:
    """The robust accuracy of each model in each norm, and against all attacks in all norms (Tramer and Boneh, NeurIPS 2019).

    Args:
        rows: The rows that the user selects, with their scored draws. Those without a radius are left out.

    Returns:
        For each model that was attacked in several norms a row per norm, and one of the norm ``union``. Each is the per-image
        worst case over the rows, selected on other draws than those that score it. ``flags`` are those of the rows that decide.

    Raises:
        UserError: No model was attacked in two norms, or one was attacked at several radii in a norm.
    """
    import pandas as pd

    groups: dict[tuple[Any, ...], list[ScoredRow]] = {}
    for row in rows:
        if row.row["attack"] != "none" and row.row["eps_value"]:
            key = (row.cells[0].scored_images, *(row.row[name] for name in _MODEL))
            groups.setdefault(key, []).append(row)
    several = [group for group in groups.values() if len({row.row["norm"] for row in group}) > 1]
    if not several:
        raise UserError(
            "--union: no model was attacked at a radius in two norms, on the same images: attack it with --norm l2 --eps 0.5 too"
        )
    return pd.DataFrame([line for group in several for line in _lines(group)], dtype=object)


def _lines(rows: Sequence[ScoredRow]) -> Iterator[dict[str, Any]]:
    """The rows of one model."""
    by_norm = {norm: of_norm for norm in NORMS if (of_norm := [row for row in rows if row.row["norm"] == norm])}
    for norm, of_norm in by_norm.items():
        radii = {row.row["eps_value"]: row.row["eps"] for row in of_norm}
        if len(radii) > 1:
            raise UserError(
                f"--union: {rows[0].row['model']} {rows[0].row['defense']} was attacked in {norm} at the radii "
                f"{', '.join(radii.values())}: choose one in each norm, as in --where eps={next(iter(radii.values()))}"
            )
        yield _line(norm, of_norm[0].row["eps"], of_norm)
    threats = ", ".join(f"{norm} {of_norm[0].row['eps']}" for norm, of_norm in by_norm.items())
    yield _line(UNION, threats, [row for of_norm in by_norm.values() for row in of_norm])


def _line(norm: str, eps: str, rows: Sequence[ScoredRow]) -> dict[str, Any]:
    """A row of the table."""
    deciding = [min(of_norm, key=strength) for of_norm in grouped([dict(row.row) for row in rows], ["norm"]).values()]
    flags = dict.fromkeys(flag for row in deciding for flag in flag_names(row["flags"]))
    return {
        **{name: rows[0].row[name] for name in _MODEL},
        "norm": norm,
        "eps": eps,
        **_accuracies("clean", [row.clean for row in rows], rows),
        **_accuracies("robust", [row.robust for row in rows], rows),
        "flags": ";".join(flags),
    }


def _accuracies(kind: str, draws: Sequence[ScoredDraws], rows: Sequence[ScoredRow]) -> dict[str, float]:
    """An accuracy with its interval, where each image has the draws of the row that it survives least."""
    strongest = np.argmin([row.survival for row in rows], axis=0)
    right = np.stack([of_row.right for of_row in draws])[strongest, :, np.arange(len(strongest))].T
    worst = ScoredDraws(right=right, shared=draws[0].shared)
    low, high = worst.interval(0.95)
    return {f"{kind}_accuracy": worst.accuracy, f"{kind}_accuracy_low": low, f"{kind}_accuracy_high": high}


def readable_norms(table: pd.DataFrame) -> ReadableTable:
    """A table of norms for people: a line for each model, and a column for each threat.

    Args:
        table: See :func:`norms_table`.
    """
    rows = records(table)
    models = list(grouped(rows, _MODEL).values())
    threats = list(dict.fromkeys(_threat(row) for row in rows))
    # Behind the norms, also where a later model was attacked in another one.
    threats.sort(key=lambda threat: threat == UNION)
    lines = []
    for label, of_model in zip(model_labels([members[0] for members in models]), models, strict=True):
        accuracies = {_threat(row): share_text(row, "robust_accuracy") for row in of_model}
        shown = [accuracies.get(threat, "-") for threat in threats]
        lines.append([setting_text(of_model[0]), label, share_text(of_model[-1], "clean_accuracy"), *shown])
    settings = [line[0] for line in lines]
    one = len({*settings}) == 1
    headers = [*([] if one else ["data"]), "model", "clean", *threats]
    flagged = [f"{label} has the flags {row['flags']}" for label, row in _flagged(models)]
    return ReadableTable(
        headers=headers,
        numeric=[header not in {"data", "model"} for header in headers],
        lines=[line[one:] for line in lines],
        title=settings[0] if one else "",
        caption=[f"{UNION}: the per-image worst case over the attacks in all norms", *flagged],
        sections=settings,
    )


def _threat(row: dict[str, Any]) -> str:
    return UNION if row["norm"] == UNION else f"{row['norm']} {row['eps']}"


def _flagged(models: Sequence[Sequence[dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The models whose union has flags, with their labels."""
    unions = [members[-1] for members in models]
    return ((label, row) for label, row in zip(model_labels(unions), unions, strict=True) if row["flags"])
