"""``advdef report``: the table of what stores hold, and the gates of a CI pipeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_cli import console, tables
from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.exits import CellsFailed, GateFailed
from robustbench_cli.options import command, output_format, stores_or_default

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.cell import Cell
    from robustbench_cli.benchmarks.store import Result, Store

__all__ = ["report"]


@command("report")
@click.argument("stores", nargs=-1, type=click.Path(path_type=Path), metavar="[STORE ...]")
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="KEY=VALUE",
    help="Keep rows whose column KEY is VALUE; all of several must hold, any of several values of one key.",
)
@output_format(*tables.FORMATS)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the table to a .csv, .json or .md file too.",
)
@click.option(
    "--fail-under",
    "minima",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Exit with 1 if a row's COLUMN is below VALUE.",
)
@click.option(
    "--baseline", type=click.Path(dir_okay=False, path_type=Path), help="Compare with the rows of this .csv file."
)
@click.option(
    "--max-drop",
    "drops",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Exit with 1 if a row's COLUMN is lower than the baseline's by more than VALUE.",
)
def report(
    stores: tuple[Path, ...],
    conditions: tuple[str, ...],
    output_format: str,
    outputs: tuple[Path, ...],
    minima: tuple[str, ...],
    baseline: Path | None,
    drops: tuple[str, ...],
) -> None:
    """Print the table of one or more stores (default: ADVDEF_STORE, or ./advdef-runs), and judge it.

    Rows in which the reported figure is missing, and cells that failed, make a gate fail to be judged: exit code 3. So
    does a damaged file, of which a line tells below the rows that are whole.
    """
    from robustbench_cli.benchmarks import gates
    from robustbench_cli.benchmarks.rows import failed_rows, rows
    from robustbench_cli.benchmarks.store import Store
    from robustbench_cli.running import failure_line

    for path in outputs:
        tables.require_place(path)
    floors = [gates.parse_limit(words, option="--fail-under") for words in minima]
    allowed = [gates.parse_limit(words, option="--max-drop") for words in drops]
    if bool(allowed) != (baseline is not None):
        raise UserError("--baseline FILE.csv and --max-drop COLUMN=VALUE need each other: give both")
    earlier = None if baseline is None else gates.read_baseline(baseline)
    wanted = gates.parse_conditions(conditions)
    opened = [Store(path) for path in stores_or_default(stores)]
    damaged: list[str] = []
    results = {
        result.cell.id: (result, store)
        for store in opened
        for result in store.results(damaged=lambda error: damaged.append(str(error)))
    }
    ordered = sorted(results.values(), key=lambda each: _order(each[0].cell))
    table = rows((result, partial(store.outcomes, result.cell.id)) for result, store in ordered)
    contradictions = _set_beside_certificates(table, ordered, damaged)
    failures = [
        failure
        for store in opened
        for failure in store.failures(damaged=lambda error: damaged.append(str(error)))
        if failure.cell.id not in results
    ]
    failed = failed_rows(failures)
    if len(table) or len(failed):
        for line in gates.unmet([table, failed], wanted):
            console.warn(line)
    table = gates.select(table, wanted)
    failures = [failures[place] for place in gates.select(failed, wanted).index]
    _show(table, output_format, outputs)
    for cell, line in contradictions.items():
        if cell in set(table["cell"]):
            console.warn(line)
    missing = [*damaged, *(failure_line(failure) for failure in failures)]
    if floors or allowed:
        verdicts = [gates.fail_under(table, limit) for limit in floors]
        if earlier is not None:
            verdicts += [gates.max_drop(table, gates.select(earlier, wanted), limit) for limit in allowed]
        missing += [line for verdict in verdicts for line in verdict.missing]
        broken = [line for verdict in verdicts for line in verdict.broken]
        _judge(broken, missing)
        console.note(
            f"passed: {', '.join([*(f'--fail-under {one}' for one in minima), *(f'--max-drop {one}' for one in drops)])}"
        )
        return
    for failure in failures:
        console.warn(failure_line(failure))
    if damaged:
        raise CellsFailed(damaged)


def _set_beside_certificates(
    table: pd.DataFrame, results: Sequence[tuple[Result, Store]], damaged: list[str]
) -> dict[str, str]:
    """Adds the column ``certified_accuracy`` where a certificate in the same stores tells something of a row.

    Returns:
        By cell, in words, what attacks did and no certificate allows.
    """
    folders = {store.path for _, store in results if (store.path / "certification").is_dir()}
    if not folders:
        return {}
    from robustbench_cli.benchmarks.certification import stored
    from robustbench_cli.benchmarks.contradictions import certificate_of, certified_accuracy, contradiction

    models = [
        model
        for folder in sorted(folders)
        for model in stored(folder, damaged=lambda error: damaged.append(str(error)))
    ]
    of_cells: dict[str, float] = {}
    lines: dict[str, str] = {}
    for result, store in results:
        cell = result.cell
        model = certificate_of(cell, models)
        of_cells[cell.id] = math.nan if model is None else certified_accuracy(cell, model)
        if model is not None and (line := contradiction(cell, store.outcomes(cell.id), model)):
            lines[cell.id] = line
    if not all(map(math.isnan, of_cells.values())):
        accuracies: list[float] = []
        for cell_id in table["cell"]:
            # A worst case has no cell of its own, and comes after its attacks.
            accuracies.append(of_cells[cell_id] if cell_id in of_cells else accuracies[-1])
        table["certified_accuracy"] = accuracies
    return lines


def _order(cell: Cell) -> tuple[Any, ...]:
    """The undefended model first, the radii growing, and what can be compared beside each other."""
    radius = math.inf if cell.eps is None else cell.eps
    place = (cell.dataset, cell.model, bool(cell.defenses), cell.defense, cell.checkpoint, cell.norm, radius)
    return (*place, cell.attack.label, str(cell.eot), cell.seed)


def _show(table: pd.DataFrame, form: str, outputs: Sequence[Path]) -> None:
    if form == "table":
        console.report(tables.for_terminal(table) if len(table) else "no rows")
    else:
        console.report(tables.as_text(table, form))
        for line in tables.quick_look(table):
            console.note(line)
    for path in outputs:
        tables.write(table, path)
        console.note(f"wrote {path}")


def _judge(broken: Sequence[str], missing: Sequence[str]) -> None:
    if missing:
        raise CellsFailed([*missing, *broken])
    if broken:
        raise GateFailed(broken)
