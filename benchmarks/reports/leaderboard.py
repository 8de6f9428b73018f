"""Where stored results would stand on a public leaderboard."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.corruptions import BENCHMARK, SEVERITIES
from robustbench_cli.benchmarks.datasets.base.options import split_name
from robustbench_cli.benchmarks.reports.columns import RowSource
from robustbench_cli.benchmarks.reports.corruption_means import MEAN
from robustbench_cli.benchmarks.reports.readable import ReadableTable, records
from robustbench_cli.benchmarks.reports.rows import model_and_threat
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.core.errors import UserError, did_you_mean
from robustbench_cli.core.strict_yaml import open_yaml_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FOLDER",
    "SUITES",
    "Entry",
    "Leaderboard",
    "RequiredAttack",
    "Standing",
    "leaderboard_names",
    "read_leaderboard",
    "readable_standings",
    "standings",
    "standings_table",
]

FOLDER = Path(__file__).parent / "leaderboards"
"""The tables, one YAML file each; ``benchmarks/comparison/leaderboards.py`` writes them."""

SUITES = ("standard", "autoattack-compat")
"""The suites whose worst case can be compared with AutoAttack's robust accuracy."""


class Entry(BaseModel):
    """A model on a leaderboard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    paper: str
    link: str
    venue: str
    architecture: str
    clean: float = Field(ge=0, le=100, description="clean accuracy in percent")
    robust: float = Field(ge=0, le=100, description="lowest known robust accuracy in percent")


class Leaderboard(BaseModel):
    """A public leaderboard: its protocol and its models, from the most robust to the least.

    One without a norm is of common corruptions: its robust accuracy is the mean over the 15 corruptions at five severities.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str
    date: str
    dataset: str
    norm: Norm | None = None
    eps: str | None = None
    n: int
    subset: bool = Field(description="whether its images are a selection of the data set's test images")
    entries: tuple[Entry, ...] = Field(min_length=1)

    @property
    def protocol(self) -> str:
        """The data set and what the models are evaluated under."""
        if self.norm is None:
            return f"{self.dataset}, {len(BENCHMARK)} corruptions at {len(SEVERITIES)} severities"
        return f"{self.dataset}, {self.norm} {self.eps}"

    def rank(self, robust: float) -> int:
        """The rank of a model, from 1: one more than the number of models with a higher robust accuracy.

        Args:
            robust: Its robust accuracy, from 0 to 1.
        """
        # The published figures have two digits.
        return 1 + sum(entry.robust > 100 * robust + 1e-9 for entry in self.entries)


@dataclass(frozen=True)
class RequiredAttack:
    """An attack that a suite always runs.

    Attributes:
        name: Its name.
        parameters: Its parameters that are not the defaults.
        norms: The norms in which it runs; ``None`` for all that it supports.
    """

    name: str
    parameters: Mapping[str, Any]
    norms: Collection[Norm] | None = None

    def is_run(self, result: Result) -> bool:
        """Whether a result is of this attack with these parameters and no others, and not with gradients in bfloat16."""
        attack = result.cell.attack
        return (
            attack.name == self.name
            and {*attack.changed} <= {*self.parameters}
            and all(attack.parameters.get(key) == value for key, value in self.parameters.items())
            and result.cell.precision != "bf16"
        )


@dataclass(frozen=True)
class Standing:
    """Where a model would stand.

    Attributes:
        row: The row of the table of results.
        rank: The rank of its robust accuracy.
        rank_low: The best rank inside the confidence interval of the robust accuracy.
        rank_high: The worst rank inside it.
        notes: What the reader must know of the comparison.
    """

    row: Mapping[str, Any]
    rank: int
    rank_low: int
    rank_high: int
    notes: Sequence[str]


def leaderboard_names() -> list[str]:
    """The names of the leaderboards, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_leaderboard(name: str) -> Leaderboard:
    """Reads a leaderboard.

    Args:
        name: One of :func:`leaderboard_names`.

    Raises:
        UserError: There is no such leaderboard.
    """
    if name not in leaderboard_names():
        raise UserError(f"--leaderboard: unknown leaderboard '{name}': {did_you_mean(name, leaderboard_names())}")
    content: Any = open_yaml_file(FOLDER / f"{name}.yaml").value
    return Leaderboard(name=name, **content)


def standings(
    board: Leaderboard,
    table: pd.DataFrame,
    results: Sequence[Result],
    suites: Mapping[str, Sequence[RequiredAttack]],
) -> tuple[list[Standing], list[str]]:
    """Where the models of a table would stand.

    Args:
        board: The leaderboard.
        table: The rows that the user selects.
        results: The stored results.
        suites: The attacks of each of :data:`SUITES`.

    Returns:
        A standing for each model that was evaluated by the protocol of the leaderboard, and a line for each other one.

    Raises:
        UserError: No model was evaluated by that protocol.
    """
    found: list[Standing] = []
    refused: dict[str, None] = {}
    candidates = _means(board, table) if board.norm is None else _attacked(board, table, results, suites)
    for row, name, differences in candidates:
        if differences:
            refused[f"{row['dataset']} {row['model']} {row['defense']}{name}: {'; '.join(differences)}"] = None
        else:
            found.append(_standing(board, row))
    if not found:
        suite = "corruptions" if board.norm is None else " or ".join(SUITES)
        reasons = "; and ".join(refused) or f"there is no row: use --suite {suite.partition(' ')[0]}"
        raise UserError(
            f"--leaderboard {board.name}: no row follows its protocol ({board.protocol}, suite {suite}): {reasons}"
        )
    return found, [f"not on {board.name}: {line}" for line in refused]


_Candidate = tuple[Mapping[str, Any], str, list[str]]
"""A row of the table, what its model's name is followed by in messages, and in what it differs from the protocol."""


def _attacked(
    board: Leaderboard,
    table: pd.DataFrame,
    results: Sequence[Result],
    suites: Mapping[str, Sequence[RequiredAttack]],
) -> Iterator[_Candidate]:
    """The rows that combine the attacks of one model and threat."""
    rows = {str(row["cell"]): row for row in records(table)}
    for group in _groups(results):
        cell, eps = group[0].cell, group[0].eps
        row = rows.get(RowSource(cell, eps, results=group).id)
        if row is not None:
            yield row, f" {cell.norm} {eps or 'any'}", list(_differences(board, group, suites))


def _means(board: Leaderboard, table: pd.DataFrame) -> Iterator[_Candidate]:
    """The rows with the mean over corruptions, without an attack."""
    for row in records(table[table["mean_corruption_accuracy"].notna()]):
        differences = list(_data_differences(board, row["dataset"]))
        differences += _randomized_or_larger(board, repeats=row["repeats"], n=row["n"])
        if row["corruption"] != MEAN:
            differences.append(f"it is the {row['corruption']}: use --suite corruptions at every severity")
        # There are no clean images among those of the leaderboard.
        yield {**row, "clean_accuracy": None}, "", differences


def _groups(results: Sequence[Result]) -> Iterator[list[Result]]:
    """The results that one row combines: the attacks of one model and threat."""
    groups: defaultdict[Hashable, list[Result]] = defaultdict(list)
    for result in results:
        if not result.was_skipped:
            groups[model_and_threat(result.cell)].append(result)
    yield from groups.values()


def _differences(
    board: Leaderboard, group: Sequence[Result], suites: Mapping[str, Sequence[RequiredAttack]]
) -> Iterator[str]:
    """In what the evaluation of a model differs from the protocol of a leaderboard."""
    cell = group[0].cell
    yield from _data_differences(board, cell.dataset)
    if cell.norm != board.norm:
        yield f"the norm is {cell.norm}, not {board.norm}"
    elif cell.eps is None or abs(cell.eps - parse_eps(str(board.eps)).value) > 1e-9:
        yield f"eps is {group[0].eps or 'any'}, not {board.eps}"
    if cell.corruption is not None:
        yield "the images are corrupted"
    if cell.targeted != "no":
        yield "the attacks are targeted"
    yield from _randomized_or_larger(board, repeats=cell.repeats, n=cell.n)
    missing = {name: _missing(suites[name], group) for name in SUITES}
    if all(missing.values()):
        nearest = min(SUITES, key=lambda name: len(missing[name]))
        bf16 = {result.cell.attack.name for result in group if result.cell.precision == "bf16"}
        how = " other than with gradients in bf16" if bf16 & {*missing[nearest]} else ""
        yield f"{', '.join(missing[nearest])} of the suite {nearest} did not run{how}: use --suite {nearest}"


def _randomized_or_larger(board: Leaderboard, *, repeats: int, n: int) -> Iterator[str]:
    """Whether a model draws random numbers, and whether it is evaluated on more images than a leaderboard has."""
    if repeats > 1:
        yield "the model is randomized, and the leaderboard takes only deterministic ones"
    if n > board.n:
        yield f"n is {n}, and the leaderboard has {board.n} images"


_OWN_SIZE = ("image_size", "resize", "crop", "interpolation", "ids")
"""Options of ``imagenet:PATH`` and ``imagenet-c:PATH`` that the leaderboard leaves to the model, and the list of its images."""


def _data_differences(board: Leaderboard, dataset: str) -> Iterator[str]:
    """In what a data set differs from that of a leaderboard; the folder of ImageNet's images does not matter."""
    plain, options = split_name(dataset)
    allowed = _OWN_SIZE if board.dataset in {"imagenet", "imagenet-c"} else ()
    if (plain.partition(":")[0] if allowed or board.norm is None else plain) != board.dataset:
        computed = board.norm is None and plain.partition(":")[0] == board.dataset.removesuffix("-c")
        hint = f": its corruptions are computed, give {board.dataset}:PATH for the published images" if computed else ""
        yield f"the data set is {dataset}, not {board.dataset}{hint}"
    elif other := sorted({*options} - {*allowed}):
        yield f"the data set is {dataset}, and the leaderboard allows no {other[0]}"


def _missing(suite: Sequence[RequiredAttack], group: Sequence[Result]) -> list[str]:
    """The attacks of a suite that a group lacks."""
    norm = group[0].cell.norm
    return [
        attack.name
        for attack in suite
        if (attack.norms is None or norm in attack.norms) and not any(map(attack.is_run, group))
    ]


def _standing(board: Leaderboard, row: Mapping[str, Any]) -> Standing:
    notes = []
    if row["n"] < board.n:
        notes.append(
            f"{row['n']} images, and {board.n} on the leaderboard: compare only the interval of the rank, "
            f"{board.rank(row['robust_accuracy_high'])} to {board.rank(row['robust_accuracy_low'])}"
        )
    if board.subset:
        notes.append(f"the leaderboard has a fixed selection of {board.n} test images, which may be others than these")
    if row["flags"]:
        notes.append(f"flagged {row['flags']}: the robust accuracy may be overstated, and with it the rank")
    return Standing(
        row=row,
        rank=board.rank(row["robust_accuracy"]),
        rank_low=board.rank(row["robust_accuracy_high"]),
        rank_high=board.rank(row["robust_accuracy_low"]),
        notes=notes,
    )


NEIGHBORS = 3
"""The number of models above and below that are shown."""


def standings_table(board: Leaderboard, found: Sequence[Standing]) -> pd.DataFrame:
    """A table of models with their neighbors on a leaderboard.

    Args:
        board: The leaderboard.
        found: The standings.

    Returns:
        For each standing, its neighbors above, its own row and its neighbors below. ``place`` is ``above``, ``here`` or
        ``below``, and ``cell`` is the cell of the standing in all of them. Accuracies are from 0 to 1.
    """
    import pandas as pd

    lines: list[dict[str, Any]] = []
    for standing in found:
        own = standing.row
        above = standing.rank - 1
        entries = [("above", entry) for entry in board.entries[max(0, above - NEIGHBORS) : above]]
        entries += [("below", entry) for entry in board.entries[above : above + NEIGHBORS]]
        neighbors = [_line(board, place, entry) for place, entry in entries]
        here = {
            "place": "here",
            "rank": standing.rank,
            "rank_low": standing.rank_low,
            "rank_high": standing.rank_high,
            "model": own["model"] if own["defense"] == "none" else f"{own['model']} {own['defense']}",
            **{key: own[key] for key in _ACCURACIES},
            **{key: own[key] for key in ("n", "checkpoint", "flags")},
        }
        neighbors.insert(min(above, NEIGHBORS), here)
        lines += [
            {"leaderboard": board.name, "source": f"{board.source}, {board.date}", **line, "cell": own["cell"]}
            for line in neighbors
        ]
    # As objects, whole numbers stay whole where others are missing.
    return pd.DataFrame(lines, columns=list(_COLUMNS), dtype=object)


_ACCURACIES = ("clean_accuracy", "robust_accuracy", "robust_accuracy_low", "robust_accuracy_high")

_COLUMNS = (
    *("leaderboard", "source", "place", "rank", "rank_low", "rank_high", "model", *_ACCURACIES),
    *("architecture", "venue", "paper", "link", "n", "checkpoint", "flags", "cell"),
)


def _line(board: Leaderboard, place: str, entry: Entry) -> dict[str, Any]:
    """The line of a model on the leaderboard."""
    return {
        "place": place,
        "rank": board.rank(entry.robust / 100),
        "model": entry.model,
        "clean_accuracy": entry.clean / 100,
        "robust_accuracy": entry.robust / 100,
        "architecture": entry.architecture,
        "venue": entry.venue,
        "paper": entry.paper,
        "link": entry.link,
        "n": board.n,
    }


def readable_standings(board: Leaderboard, found: Sequence[Standing], table: pd.DataFrame) -> ReadableTable:
    """The table of standings for people.

    Args:
        board: The leaderboard.
        found: The standings.
        table: Their table; see :func:`standings_table`.
    """
    lines = []
    for row in records(table):
        interval = ""
        rank = str(row["rank"])
        if row["place"] == "here":
            rank = f"{rank} [{row['rank_low']},{row['rank_high']}]"
            low, high = row["robust_accuracy_low"], row["robust_accuracy_high"]
            # Rounded outwards, as in the table of results.
            interval = f" [{math.floor(10_000 * low) / 100:.2f},{math.ceil(10_000 * high) / 100:.2f}]"
        lines.append(
            [
                rank,
                f"> {row['model']}" if row["place"] == "here" else row["model"],
                "-" if row["clean_accuracy"] is None else f"{100 * row['clean_accuracy']:.2f}",
                f"{100 * row['robust_accuracy']:.2f}{interval}",
                *(row[key] or "-" for key in ("architecture", "venue", "paper")),
            ]
        )
    order = "mean accuracy over corruptions" if board.norm is None else "lowest known robust accuracy"
    source = f"{board.source}, {board.date}: the {len(board.entries)} models of its zoo, by {order}"
    headers = ["rank", "model", "clean", "robust", "architecture", "venue", "paper"]
    return ReadableTable(
        headers=headers,
        numeric=[header in {"rank", "clean", "robust"} for header in headers],
        lines=lines,
        hideable=("paper", "venue", "architecture"),
        title=f"{board.name} ({board.protocol}, n {board.n})",
        caption=[source, *dict.fromkeys(note for standing in found for note in standing.notes)],
        sections=list(table["cell"]),
    )
