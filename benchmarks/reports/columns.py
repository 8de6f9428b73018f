"""The columns of a table of results: for each its value, its kind, its gate and its form in a terminal.

A new column is one more entry of :data:`COLUMNS`. The CSV and the JSON file, the table in the terminal and in Markdown,
``--where`` and the gates follow from it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from robustbench_cli.defenses.base.families import family_label

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.evaluation.statistics.efficiency import DefenseEfficiency
    from robustbench_cli.benchmarks.store.cell import Cell
    from robustbench_cli.benchmarks.store.records import Result

__all__ = [
    "COLUMNS",
    "WORST_CASE",
    "Column",
    "RowSource",
    "Shown",
    "column",
    "column_names",
    "flag_names",
    "gated_columns",
    "identity_columns",
    "shared_values",
    "short_count",
    "shown_columns",
    "threat_text",
]

WORST_CASE = "worst-case"
"""The attack's name in the row of the per-image worst case over attacks."""

Kind = Literal["text", "count", "share", "distance", "points", "number", "yes/no"]
"""What a column holds; a share is from 0 to 1, points are percentage points."""

Record = Mapping[str, Any]
"""A row of a table by column; ``None`` is a missing value."""


@dataclass
class RowSource:
    """What one row is made from: a stored result, several in a per-image worst case, or only a cell.

    Attributes:
        cell: The cell; the first attack's in a worst case.
        eps: The radius as the user wrote it; empty without one.
        checkpoint: The checkpoint's path as the user wrote it; ``None`` where it is unknown.
        results: One result, or those that a worst case combines; none for a cell that failed or is missing.
        summary: The accuracies and distances by column; see :func:`~.outcomes.summarize`.
        flags: The names of the checks that speak against the row.
        efficiency: The Defense Efficiency Score, where there is an undefended model to compare with.
        quick_look: Whether the attacks are too weak to vouch for the row; ``None`` where there is no result.
    """

    cell: Cell
    eps: str
    checkpoint: str | None = None
    results: Sequence[Result] = ()
    summary: Mapping[str, float | None] = field(default_factory=dict)
    flags: Sequence[str] = ()
    efficiency: DefenseEfficiency | None = None
    quick_look: bool | None = None

    @property
    def is_worst_case(self) -> bool:
        """Whether the row combines several attacks."""
        return len(self.results) > 1

    @property
    def attack(self) -> str:
        """The attack's label, or :data:`WORST_CASE`."""
        return WORST_CASE if self.is_worst_case else self.cell.attack_label

    @property
    def precision(self) -> str | None:
        """The precision of the gradients; ``None`` without a result, and where the results differ."""
        precisions = {result.precision for result in self.results}
        return precisions.pop() if len(precisions) == 1 else None

    @property
    def id(self) -> str:
        """The cell's hash; the hash of all cells' hashes for a worst case."""
        if not self.is_worst_case:
            return self.cell.id
        cells = "".join(sorted(result.cell.id for result in self.results))
        return hashlib.sha256(cells.encode()).hexdigest()[:20]

    @property
    def n(self) -> int:
        """The number of images that were attacked."""
        scored = self.summary.get("n")
        return self.cell.n if scored is None else round(scored)

    def of_result(self, name: str) -> Any:
        """An attribute of the first result; ``None`` without one."""
        return getattr(self.results[0], name) if self.results else None

    def total(self, name: str) -> Any:
        """The sum of an attribute over the results; ``None`` without one."""
        return sum(getattr(result, name) for result in self.results) if self.results else None

    def of_size(self, name: str) -> Any:
        """An attribute of the model's size; ``None`` without one."""
        size = self.of_result("size")
        return None if size is None else getattr(size, name)

    def of_efficiency(self, name: str) -> Any:
        """An attribute of the Defense Efficiency Score; ``None`` without one."""
        return None if self.efficiency is None else getattr(self.efficiency, name)


@dataclass(frozen=True)
class Shown:
    """A column in the terminal and in Markdown.

    Attributes:
        header: The header.
        position: The position among the columns, from left to right.
        text: The text of a row; by default the value in the form of its kind.
        interval: The columns with the ends of the confidence interval, which is printed behind the value.
        hide_interval: The rank in which a narrow terminal hides the interval; see ``hide``.
        hide: The rank in which a narrow terminal hides the column, lowest first; None: never hidden.
        in_title: Whether a value that all rows share is printed above the table instead.
        usual: A shared value that is not printed.
        when: Whether a table has the column at all.
    """

    header: str
    position: int = 80
    text: Callable[[Record], str] | None = None
    interval: tuple[str, str] | None = None
    hide_interval: int | None = None
    hide: int | None = None
    in_title: bool = False
    usual: str | None = None
    when: Callable[[pd.DataFrame], bool] = lambda _: True


@dataclass(frozen=True)
class Column:
    """A column of the table of results.

    Attributes:
        name: The name in files, in ``--where`` and in gates.
        kind: What it holds.
        value: Its value for a row, ``None`` where there is none. A column without this is in a table only where a
            command adds it.
        gate: Which values are better; ``None`` where neither are. A gate may judge every column of numbers.
        identity: Whether rows of two tables are the same comparison only if they agree in it. ``"later"``: and earlier
            versions of the program wrote tables without it.
        only: The rows that a gate judges by it, where not all: those with a certificate, those of defended models, the means
            over corruptions without an attack, or those with a radius. An accuracy under a minimal-norm attack at any distance has none.
        shown: Its form in the terminal; ``None`` where it is only in files.
    """

    name: str
    kind: Kind
    value: Callable[[RowSource], Any] | None
    gate: Literal["higher", "lower"] | None = None
    identity: Literal["always", "later"] | None = None
    only: Literal["certified", "defended", "means", "radius"] | None = None
    shown: Shown | None = None

    def text(self, record: Record, *, interval: bool = True) -> str:
        """The text of a row for people.

        Args:
            record: The row.
            interval: Whether the confidence interval is printed too.
        """
        assert self.shown is not None
        text = (self.shown.text or (lambda row: _FORMS[self.kind](row[self.name])))(record)
        if not interval or self.shown.interval is None:
            return text
        low, high = (record[name] for name in self.shown.interval)
        # Rounded outwards: an interval that is printed too narrow would speak for the defense.
        return f"{text} [{math.floor(100 * low)},{math.ceil(100 * high)}]"

    @property
    def is_numeric(self) -> bool:
        """Whether it is right-justified."""
        return self.kind not in {"text", "yes/no"} or self.name == "eot"


def _fixed(digits: int, scale: float = 1) -> Callable[[Any], str]:
    return lambda value: "-" if value is None else f"{scale * value:.{digits}f}"


_FORMS: Mapping[Kind, Callable[[Any], str]] = {
    "text": lambda value: "-" if value is None else str(value),
    "count": lambda value: "-" if value is None else str(value),
    "share": _fixed(1, 100),
    "distance": _fixed(2),
    "points": _fixed(1),
    "number": lambda value: "-" if value is None else f"{value:g}",
    "yes/no": lambda value: "-" if value is None else "yes" if value else "no",
}


def short_count(count: int) -> str:
    """A large number in some four characters.

    Args:
        count: The number.

    >>> short_count(980), short_count(36_123), short_count(1_123_000)
    ('980', '36k', '1.1M')
    """
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size else 0}f}{unit}"
    return str(count)


def _numbers(values: Sequence[float] | None) -> str | None:
    """Numbers as ``--mean`` takes them."""
    return ",".join(map(repr, values or ()))


def _measured(name: str) -> Callable[[RowSource], Any]:
    return lambda source: source.summary.get(name)


_ALIKE = ("dataset", "model", "defense", "checkpoint")


def _varies(name: str) -> Callable[[pd.DataFrame], bool]:
    """Whether a column distinguishes models whose names and file names are the same."""
    above = {"mean": (), "std": (), "checkpoint_sha256": ("mean", "std")}

    def varies(table: pd.DataFrame) -> bool:
        if not {"mean", "std", "checkpoint_sha256"} <= {*table.columns}:
            return False
        groups = table.groupby([*_ALIKE, *above[name]], dropna=False)
        return bool((groups[name].nunique(dropna=False) > 1).any())

    return varies


def _files_differ(table: pd.DataFrame) -> bool:
    """Whether two rows with the same names come from different files."""
    return bool((table.groupby(["dataset", "model", "defense"], dropna=False)["checkpoint"].nunique() > 1).any())


def _is_randomized(table: pd.DataFrame) -> bool:
    return bool((table["repeats"] > 1).any())


def _occurs(name: str) -> Callable[[pd.DataFrame], bool]:
    """Whether a row has a value in a column."""
    return lambda table: name in table.columns and bool(table[name].notna().any())


def _is_attacked(table: pd.DataFrame) -> bool:
    """Whether a row is of an attack; where images are only corrupted, columns of attacks are empty or say the same twice."""
    return bool((table["attack"] != "none").any()) or not _occurs("corruption")(table)


def threat_text(row: Record) -> str:
    """The norm and the radius of a row; no attack has neither."""
    return "-" if row["attack"] == "none" else f"{row['norm']} {row['eps'] or 'any'}"


def _score(row: Record) -> str:
    # Divided by a loss that may be nothing, the score is a number by chance.
    return "~" if row["clean_accuracy_loss_within_interval"] else _FORMS["points"](row["des"])


COLUMNS: tuple[Column, ...] = (
    Column(
        "dataset", "text", lambda row: row.cell.dataset, identity="always", shown=Shown("dataset", 30, in_title=True)
    ),
    Column("model", "text", lambda row: row.cell.model, identity="always", shown=Shown("model", 31, in_title=True)),
    Column("checkpoint", "text", lambda row: row.checkpoint, shown=Shown("checkpoint", 11, when=_files_differ)),
    Column("defense", "text", lambda row: row.cell.defense, identity="always", shown=Shown("defense", 10)),
    Column("attack", "text", lambda row: row.attack, identity="always", shown=Shown("attack", 20)),
    Column("norm", "text", lambda row: row.cell.norm, identity="always"),
    Column(
        "eps",
        "text",
        lambda row: row.eps,
        identity="always",
        shown=Shown("threat", 40, text=threat_text, when=_is_attacked),
    ),
    Column(
        "targeted",
        "text",
        lambda row: row.cell.targeted,
        identity="always",
        shown=Shown("targeted", 33, in_title=True, usual="no"),
    ),
    Column(
        "eot",
        "text",
        lambda row: "" if row.is_worst_case else str(row.cell.eot),
        identity="always",
        shown=Shown("eot", 41, when=_is_attacked),
    ),
    Column("n", "count", lambda row: row.n, identity="always", shown=Shown("n", 32, in_title=True)),
    Column("repeats", "count", lambda row: row.cell.repeats, identity="always"),
    Column("seed", "count", lambda row: row.cell.seed, identity="always", shown=Shown("seed", 34, in_title=True)),
    Column(
        "clean_accuracy",
        "share",
        _measured("clean_accuracy"),
        gate="higher",
        shown=Shown(
            "clean", 50, interval=("clean_accuracy_low", "clean_accuracy_high"), hide_interval=1, when=_is_attacked
        ),
    ),
    Column("clean_accuracy_low", "share", _measured("clean_accuracy_low"), gate="higher"),
    Column("clean_accuracy_high", "share", _measured("clean_accuracy_high"), gate="higher"),
    Column(
        "robust_accuracy",
        "share",
        _measured("robust_accuracy"),
        gate="higher",
        only="radius",
        shown=Shown("robust", 51, interval=("robust_accuracy_low", "robust_accuracy_high"), hide_interval=3),
    ),
    Column("robust_accuracy_low", "share", _measured("robust_accuracy_low"), gate="higher", only="radius"),
    Column("robust_accuracy_high", "share", _measured("robust_accuracy_high"), gate="higher", only="radius"),
    Column(
        "robust_accuracy_vote",
        "share",
        _measured("robust_accuracy_vote"),
        gate="higher",
        only="radius",
        shown=Shown("vote", 52, hide=7, when=_is_randomized),
    ),
    Column(
        "robust_accuracy_every_draw",
        "share",
        _measured("robust_accuracy_every_draw"),
        gate="higher",
        only="radius",
        shown=Shown("every", 53, hide=6, when=_is_randomized),
    ),
    Column(
        "attack_success_rate",
        "share",
        _measured("attack_success_rate"),
        gate="lower",
        only="radius",
        shown=Shown("success", 60, hide=8, when=_is_attacked),
    ),
    Column(
        "mean_l2", "distance", _measured("mean_l2"), gate="higher", shown=Shown("l2", 61, hide=5, when=_is_attacked)
    ),
    Column("mean_linf", "distance", _measured("mean_linf"), gate="higher"),
    Column(
        "des",
        "points",
        lambda row: row.of_efficiency("score"),
        gate="higher",
        only="defended",
        shown=Shown("des", 62, text=_score, hide=2, when=lambda table: bool(table["des"].notna().any())),
    ),
    Column(
        "flags",
        "text",
        lambda row: ";".join(row.flags) if row.results else None,
        shown=Shown("flags", 90, when=lambda table: bool(table["flags"].astype(bool).any())),
    ),
    Column(
        "forwards",
        "count",
        lambda row: row.total("forwards"),
        gate="lower",
        shown=Shown("passes", 63, text=lambda row: short_count(row["forwards"] + row["backwards"]), hide=4),
    ),
    Column("backwards", "count", lambda row: row.total("backwards"), gate="lower"),
    Column("seconds", "number", lambda row: row.total("seconds"), gate="lower"),
    Column("device", "text", lambda row: row.of_result("device")),
    Column("cell", "text", lambda row: row.id),
    Column("eps_value", "number", lambda row: row.cell.eps),
    Column(
        "mean",
        "text",
        lambda row: _numbers(row.of_result("mean")) if row.results else None,
        identity="later",
        shown=Shown("mean", 12, text=lambda row: row["mean"] or "-", when=_varies("mean")),
    ),
    Column(
        "std",
        "text",
        lambda row: _numbers(row.of_result("std")) if row.results else None,
        identity="later",
        shown=Shown("std", 13, text=lambda row: row["std"] or "-", when=_varies("std")),
    ),
    Column(
        "checkpoint_sha256",
        "text",
        lambda row: row.cell.checkpoint,
        shown=Shown(
            "sha256", 14, text=lambda row: str(row["checkpoint_sha256"])[:8], when=_varies("checkpoint_sha256")
        ),
    ),
    Column("des_low", "points", lambda row: row.of_efficiency("low"), gate="higher", only="defended"),
    Column("des_high", "points", lambda row: row.of_efficiency("high"), gate="higher", only="defended"),
    Column("clean_accuracy_loss_within_interval", "yes/no", lambda row: row.of_efficiency("loss_within_interval")),
    Column("quick_look", "yes/no", lambda row: row.quick_look),
    Column("precision", "text", lambda row: row.precision),
    Column(
        "corruption",
        "text",
        lambda row: row.cell.corruption_label,
        identity="later",
        shown=Shown("corruption", 15, when=_occurs("corruption")),
    ),
    Column(
        "severity",
        "count",
        lambda row: row.cell.severity,
        identity="later",
        shown=Shown("severity", 16, when=_occurs("corruption")),
    ),
    Column("accounting", "text", lambda row: row.cell.accounting, identity="later"),
    Column(
        "stop_when_decided",
        "number",
        lambda row: row.cell.stop_when_decided,
        identity="later",
        shown=Shown("decided at", 42, when=_occurs("stop_when_decided")),
    ),
    Column("mean_corruption_accuracy", "share", lambda _: None, gate="higher", only="means"),
    Column(
        "mce",
        "number",
        lambda _: None,
        gate="lower",
        only="means",
        shown=Shown(
            "mCE",
            55,
            text=lambda row: _FORMS["share"](row["mce"]),
            when=_occurs("mce"),
        ),
    ),
    Column("mce_baseline", "text", lambda _: None),
    Column(
        "certified_accuracy",
        "share",
        None,
        gate="higher",
        only="certified",
        shown=Shown("certified", 54, when=lambda table: "certified_accuracy" in table.columns),
    ),
    Column(
        "certified_gap",
        "share",
        None,
        gate="lower",
        only="certified",
        shown=Shown("gap", 54, hide=8, when=lambda table: "certified_gap" in table.columns),
    ),
    Column("parameters", "count", lambda row: row.of_size("parameters"), gate="lower"),
    Column("nonzero", "count", lambda row: row.of_size("nonzero"), gate="lower"),
    Column("macs", "count", lambda row: row.of_size("macs"), gate="lower"),
    Column("family", "text", lambda row: family_label(spec.name for spec in row.cell.defenses)),
)
"""The columns, in the order of the CSV file."""


def column(name: str) -> Column:
    """The column of a name.

    Raises:
        KeyError: There is no such column.
    """
    return {entry.name: entry for entry in COLUMNS}[name]


def column_names() -> list[str]:
    """The names of the columns that every table has, in the order of the CSV file."""
    return [entry.name for entry in COLUMNS if entry.value is not None]


def flag_names(field: object) -> list[str]:
    """The names in a field of the column ``flags``.

    Args:
        field: The names with semicolons between them; empty without flags, and missing (NaN) in rows without a result.

    >>> flag_names("no-eot;zero-gradient"), flag_names(""), flag_names(float("nan"))
    (['no-eot', 'zero-gradient'], [], [])
    """
    return field.split(";") if isinstance(field, str) and field else []


def gated_columns() -> list[str]:
    """The names of the columns that a gate may judge: those of numbers."""
    return [entry.name for entry in COLUMNS if entry.kind not in {"text", "yes/no"}]


def identity_columns(*, available: Iterable[str] | None = None) -> list[str]:
    """The names of the columns in which two rows must agree to be the same comparison.

    A checkpoint's path and hash are not among them: it may have been trained again.

    Args:
        available: The columns that all tables in question have. Those that earlier versions did not write are left out
            where they are not among them. By default all.
    """
    names = None if available is None else {*available}
    always = [entry.name for entry in COLUMNS if entry.identity == "always"]
    return always + [
        entry.name for entry in COLUMNS if entry.identity == "later" and (names is None or entry.name in names)
    ]


def shown_columns(table: pd.DataFrame) -> list[Column]:
    """The columns that a table has for people, from left to right."""
    return [
        entry
        for shown, entry in _from_left_to_right()
        if shown.when(table) and not (shown.in_title and table[entry.name].nunique() <= 1)
    ]


def shared_values(table: pd.DataFrame) -> list[tuple[str, Any]]:
    """The names and values of columns in which all rows agree, for the line above a table."""
    return [
        (entry.name, table[entry.name].iloc[0])
        for shown, entry in _from_left_to_right()
        if shown.in_title and table[entry.name].nunique() == 1 and table[entry.name].iloc[0] != shown.usual
    ]


def _from_left_to_right() -> list[tuple[Shown, Column]]:
    shown = [(entry.shown, entry) for entry in COLUMNS if entry.shown is not None]
    return sorted(shown, key=lambda pair: pair[0].position)
