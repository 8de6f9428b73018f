"""The table of results in the forms that people and programs read."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_cli.cli import console
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.escaping import escaped_for_csv, escaped_for_markdown, escaped_for_terminal

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
    from rich.table import Table

__all__ = [
    "FORMATS",
    "ambiguous_files",
    "as_text",
    "for_terminal",
    "plain",
    "quick_look",
    "report",
    "require_place",
    "write",
]

FORMATS = ("table", "csv", "json", "markdown")

_ENDINGS = {".csv": "csv", ".json": "json", ".md": "markdown"}

_HIDDEN_FIRST = ("passes", "l2", "every", "vote", "success", "des", "eot", "seed", "n")
"""Columns that a narrow terminal goes without, the first of them first."""

_COMMON = ("dataset", "model", "n", "targeted", "seed")
"""Columns that stand above the table where all rows agree on them."""


def as_text(table: pd.DataFrame, form: str) -> str:
    """The table as ``csv``, ``json`` (a list of objects, ``null`` for what there is not) or ``markdown``."""
    if form == "csv":
        return str(table.map(_as_field).to_csv(index=False, lineterminator="\n"))
    if form == "json":
        return json.dumps(_records(table.map(_without_noise)), indent=1) + "\n"
    columns, lines = _readable(table)
    rule = ["---" if numeric else ":--" for _, numeric in columns]
    names = [name for name, _ in columns]
    cells = [[escaped_for_markdown(word) for word in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in (names, rule, *cells))


def _without_noise(value: Any) -> Any:
    """A figure to 12 digits, the same in every file: 0.928 rather than 0.9279999999999999."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _as_field(value: Any) -> Any:
    return escaped_for_csv(value) if isinstance(value, str) else _without_noise(value)


def report(table: pd.DataFrame, drawn: RenderableType, output: Path | None) -> None:
    """Prints a table as it is drawn for people, and writes it to a file where one is named.

    Raises:
        UserError: The file's ending is unknown or the place cannot be written.
    """
    console.report(drawn)
    if output is not None:
        write(table, output)
        console.note(f"wrote {output}")


def write(table: pd.DataFrame, path: Path) -> None:
    """Writes the table whole, in the form that the file's ending names.

    Raises:
        UserError: The ending is unknown or the place cannot be written.
    """
    from robustbench_cli.core.atomic_write import write_atomically

    write_atomically(path, as_text(table, _form_of(path)).encode())


def require_place(path: Path, *, forms: Collection[str] = FORMATS) -> None:
    """Makes sure, before anything is computed, that the table can be written; its folder is made where there is none.

    Args:
        path: Where the table goes.
        forms: Those that the table can be written in.

    Raises:
        UserError: The ending is unknown or the place cannot be written.
    """
    from robustbench_cli.core.atomic_write import ensure_writable

    _form_of(path, forms)
    ensure_writable(path.parent)


def _form_of(path: Path, forms: Collection[str] = FORMATS) -> str:
    """The form that a file's ending names."""
    endings = {ending: form for ending, form in _ENDINGS.items() if form in forms}
    try:
        return endings[path.suffix.lower()]
    except KeyError:
        raise UserError(f"-o {path}: the ending names the form; give one of {', '.join(endings)}") from None


def for_terminal(table: pd.DataFrame) -> Table:
    """The table as a person reads it: what all rows share stands above it, 95 % intervals behind their figures.

    On a terminal that is too narrow columns are left out, the least needed first, and named below; in a pipe none is.
    """
    columns, lines = _readable(table)
    lines = [plain(*line) for line in lines]
    width = console.width()
    hidden: list[str] = []
    drawn = _drawn(table, columns, lines, hidden)
    for name in _HIDDEN_FIRST:
        if width is None or (drawn.width or 0) <= width:
            break
        place = next((place for place, (column, _) in enumerate(columns) if column == name), None)
        if place is not None:
            hidden.append(name)
            columns = columns[:place] + columns[place + 1 :]
            lines = [line[:place] + line[place + 1 :] for line in lines]
            drawn = _drawn(table, columns, lines, hidden)
    return drawn


def _drawn(
    table: pd.DataFrame, columns: Sequence[tuple[str, bool]], lines: Sequence[list[str]], hidden: list[str]
) -> Table:
    """The table with its legend, as wide as its content."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table

    widths = [max(map(cell_len, column)) for column in zip([name for name, _ in columns], *lines, strict=True)]
    # Two blanks stand between columns, one on each side.
    total = sum(widths) + 2 * len(widths)
    drawn = Table(box=box.SIMPLE_HEAD, title=_shared(table), title_justify="left", width=total)
    drawn.caption = "\n".join(_legend(table, hidden)) or None
    drawn.caption_justify = "left"
    drawn.pad_edge = drawn.collapse_padding = False
    drawn.padding = (0, 1, 0, 0)
    for name, numeric in columns:
        drawn.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    previous = None
    for line, defense in zip(lines, table["defense"], strict=True):
        if previous not in (None, defense):
            drawn.add_section()
        previous = defense
        drawn.add_row(*line)
    return drawn


def plain(*words: object) -> list[str]:
    """What stands in a row of a table for people, each in one line."""
    return [escaped_for_terminal(str(word)) for word in words]


def _legend(table: pd.DataFrame, hidden: Sequence[str]) -> list[str]:
    """The lines below the table: what the signs in it mean, unless ``-q`` was given, and the columns not shown."""
    from robustbench_cli.benchmarks.evaluation.checks import FLAGS

    without = [f"not shown, for want of width: {', '.join(hidden)}"] if hidden else []
    if console.settings.quiet:
        return without
    raised = sorted({flag for flags in table["flags"] for flag in str(flags).split(";") if flag in FLAGS})
    caption = [f"{flag}: {FLAGS[flag]}" for flag in raised]
    if table["attack"].str.startswith("+").any():
        caption.append(
            "+ before an attack: run on what those before it in its suite have not broken, and counted with it"
        )
    caption += quick_look(table)
    if table["clean_accuracy_loss_within_interval"].eq(True).any():
        caption.append("~ in des: the loss of clean accuracy that it divides by cannot be told from none")
    return caption + without


def quick_look(table: pd.DataFrame) -> list[str]:
    """The line on rows that a quick look cannot vouch for; none where there are no such rows."""
    from robustbench_cli.benchmarks.store.worst_case_flags import QUICK_LOOK

    count = int(table["quick_look"].eq(True).sum()) if "quick_look" in table.columns else 0
    rows = "" if count == len(table) else f"{count} of {len(table)} rows are a "
    return [f"{rows}{QUICK_LOOK}"] if count else []


def _shared(table: pd.DataFrame) -> str:
    shared = [(name, table[name].iloc[0]) for name in _COMMON if table[name].nunique() == 1]
    return escaped_for_terminal(
        ", ".join(f"{name} {value}" for name, value in shared if (name, value) != ("targeted", "no"))
    )


def _readable(table: pd.DataFrame) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    """Columns as ``(name, whether it holds numbers)`` and the rows' words."""
    files = ambiguous_files(
        zip(table[["dataset", "model", "defense"]].itertuples(index=False), table["checkpoint"], strict=True)
    )
    columns = [(name, False) for name in ("defense", *(["checkpoint"] if files else []), *_alike(table), "attack")]
    columns += [(name, False) for name in _COMMON if table[name].nunique() > 1]
    columns += [("threat", False), ("eot", True), ("clean", True), ("robust", True)]
    if (table["repeats"] > 1).any():
        columns += [("vote", True), ("every", True)]
    if "certified_accuracy" in table.columns:
        columns.append(("certified", True))
    columns += [("success", True), ("l2", True)]
    if table["des"].notna().any():
        columns.append(("des", True))
    columns.append(("passes", True))
    if table["flags"].astype(bool).any():
        columns.append(("flags", False))
    records = [row | {"checkpoint": files.get(row["checkpoint"])} for row in _records(table)]
    return columns, [[_word(row, name) for name, _ in columns] for row in records]


def _alike(table: pd.DataFrame) -> list[str]:
    """What tells models apart that are called the same and come from files of one name: normalization, or weights."""
    if not {"mean", "std", "checkpoint_sha256"} <= {*table.columns}:
        return []
    named = table.groupby(["dataset", "model", "defense", "checkpoint"], dropna=False)
    found = [name for name in ("mean", "std") if (named[name].nunique(dropna=False) > 1).any()]
    each = table.groupby(["dataset", "model", "defense", "checkpoint", "mean", "std"], dropna=False)
    return found + (["sha256"] if (each["checkpoint_sha256"].nunique() > 1).any() else [])


def ambiguous_files(named: Iterable[tuple[Hashable, str]]) -> dict[str, str]:
    """What to call checkpoints, where what else is said of them does not tell them apart.

    Args:
        named: What else is said of each, and its path.

    Returns:
        The files' names by path, or the whole paths where two files have the same name; nothing where no two are called
        the same.
    """
    paths: defaultdict[Hashable, set[str]] = defaultdict(set)
    for label, path in named:
        paths[label].add(path)
    if all(len(each) == 1 for each in paths.values()):
        return {}
    names = {path: Path(path).name for each in paths.values() for path in each}
    return names if len(set(names.values())) == len(names) else {path: path for path in names}


def _word(row: dict[str, Any], column: str) -> str:
    """What stands in a column of the table for people; accuracies are percentages."""
    if column in ("clean", "robust"):
        name = f"{column}_accuracy"
        # Rounded outwards: an interval that is printed too narrow would speak for the defense.
        low, high = math.floor(100 * row[f"{name}_low"]), math.ceil(100 * row[f"{name}_high"])
        return f"{_percent(row[name])} [{low},{high}]"
    shares = {
        "vote": "robust_accuracy_vote",
        "every": "robust_accuracy_every_draw",
        "certified": "certified_accuracy",
        "success": "attack_success_rate",
    }
    if column in shares:
        return _percent(row[shares[column]])
    if column == "sha256":
        return str(row["checkpoint_sha256"])[:8]
    if column in ("mean", "std"):
        return row[column] or "-"
    if column == "threat":
        return f"{row['norm']} {row['eps'] or 'any'}"
    if column == "l2":
        return _number(row["mean_l2"], 2)
    if column == "des":
        return _number(row["des"], 1) + ("~" if row["clean_accuracy_loss_within_interval"] else "")
    if column == "passes":
        return _short(row["forwards"] + row["backwards"])
    return str(row[column])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _short(count: int) -> str:
    """A large number in four characters or so: 980, 36k, 1.1M."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size else 0}f}{unit}"
    return str(count)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain data, ``None`` for what there is not."""
    return [
        {str(key): None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in table.to_dict(orient="records")
    ]
