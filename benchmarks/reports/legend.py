"""The lines that explain the table of results: its flags, its signs, and rows whose attacks are too weak."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from robustbench_cli.benchmarks.evaluation import checks
from robustbench_cli.benchmarks.reports.columns import flag_names, shown_columns
from robustbench_cli.core.class_source import read_exported

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_page", "flag_marks", "flag_texts", "notes", "quick_look", "raised_flags"]

_MEAN = "for the paper's mean corruption error (mCE): advdef report --corruption-baseline alexnet|FILE.csv"


def flag_texts(flags: Collection[str]) -> dict[str, str]:
    """The meaning of flags in a row, in the order of ``advdef list checks``; other flags are left out.

    Args:
        flags: The names of flags.
    """
    return {
        name: check_page(name)[0] or checks.registry.load(name).text
        for name in checks.registry.names()
        if name in flags
    }


def check_page(name: str) -> tuple[str, str]:
    """What a check of the project means and what to do, read without running its code; empty texts for other names.

    Args:
        name: The name of a check, or any text.
    """
    module = checks.registry.module_of(name) if name in checks.registry.names() else None
    source = None if module is None else read_exported(module)
    constants = {} if source is None else source.constants
    return constants.get("text", ""), constants.get("remedy", "")


def raised_flags(table: pd.DataFrame) -> list[str]:
    """The flags of the rows: those with a meaning first, in the order of :func:`flag_texts`."""
    raised = {flag: "" for flags in table["flags"].unique() for flag in flag_names(flags)}
    return list(flag_texts(raised) | raised)


def flag_marks(table: pd.DataFrame) -> dict[str, str]:
    """A short mark for each flag of the rows: a, b and so on, and after z aa, ab.

    Args:
        table: The rows, with the column ``flags``.
    """
    return {flag: _letters(number) for number, flag in enumerate(raised_flags(table))}


def _letters(number: int) -> str:
    quotient, rest = divmod(number, 26)
    return (_letters(quotient - 1) if quotient else "") + chr(ord("a") + rest)


def notes(table: pd.DataFrame, names: Collection[str] | None = None) -> list[str]:
    """The lines below the table that explain its signs and its accuracies; see also :func:`flag_texts`.

    Args:
        table: The rows, with the columns of :data:`~.columns.COLUMNS`.
        names: The names of the columns; by default those that the table has for people.
    """
    lines = []
    if table["attack"].str.startswith("+").any():
        lines.append(
            "+ before an attack: it ran only on images that the attacks before it in its suite did not break (in every draw "
            "of a randomized defense), and its row counts the broken ones too"
        )
    shown = {entry.name for entry in shown_columns(table)}
    if {"corruption", "clean_accuracy"} <= shown:
        lines.append("clean in a row with a corruption: the accuracy on the corrupted images, before the attack")
    if {"mean_corruption_accuracy", "mce"} <= {*table.columns} and table["mean_corruption_accuracy"].notna().any():
        lines += [_MEAN] if table["mce"].isna().all() else []
    lines += quick_look(table)
    if "des" in (shown if names is None else names) and table["clean_accuracy_loss_within_interval"].eq(True).any():
        lines.append(
            "~ in des: no score, since the loss of clean accuracy that divides it is not statistically significant"
        )
    if "stop_when_decided" in table.columns and table["stop_when_decided"].notna().any():
        lines.append(
            "decided at: n images, in random order, were attacked until the accuracy of all was known to reach this limit or not; the "
            "interval of the robust accuracy holds at any stopping time"
        )
        if "corruption" in table.columns and table.loc[table["stop_when_decided"].notna(), "corruption"].notna().any():
            lines.append("no mean over corruptions: how many images were attacked depends on the outcomes")
    return lines


def quick_look(table: pd.DataFrame) -> list[str]:
    """The line on rows whose attacks are too weak to vouch for them; empty without such rows.

    Args:
        table: The rows.
    """
    from robustbench_cli.benchmarks.store.worst_case_flags import QUICK_LOOK

    count = int(table["quick_look"].eq(True).sum()) if "quick_look" in table.columns else 0
    rows = "" if count == len(table) else f"{count} of {len(table)} rows {'is' if count == 1 else 'are'} a "
    return [f"{rows}{QUICK_LOOK}"] if count else []
