"""``advdef report``: the table of what stores hold, and the gates of a CI pipeline."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_cli.benchmarks.reports.formats import format_names
from robustbench_cli.cli import console, tables
from robustbench_cli.cli.exit_codes import CellsFailed, GateFailed
from robustbench_cli.cli.options import command, option, output_file, output_format, stores_or_default
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.store.cell import Cell
    from robustbench_cli.benchmarks.store.store import RequestedCell, Result, Store

__all__ = ["report"]


@command("report")
@click.argument("stores", nargs=-1, type=click.Path(path_type=Path), metavar="[STORE ...]")
@option(
    "--where",
    "conditions",
    multiple=True,
    metavar="KEY=VALUE",
    group="Rows",
    help="Only rows whose column KEY is VALUE. Several keys must all fit; of several values for one key, any.",
)
@output_format("table", *format_names())
@output_file(multiple=True)
@option(
    "--fail-under",
    "minima",
    multiple=True,
    metavar="COLUMN=VALUE",
    group="Gates",
    help="Exit with 1 if a row's COLUMN is below VALUE.",
)
@option(
    "--fail-over",
    "maxima",
    multiple=True,
    metavar="COLUMN=VALUE",
    group="Gates",
    help="Exit with 1 if a row's COLUMN is above VALUE, for columns where lower is better (attack_success_rate).",
)
@option(
    "--baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    group="Gates",
    help="Compare with the rows of this .csv file.",
)
@option(
    "--max-drop",
    "drops",
    multiple=True,
    metavar="COLUMN=VALUE",
    group="Gates",
    help="Exit with 1 if a row's COLUMN is lower than the baseline's by more than VALUE.",
)
@option(
    "--max-rise",
    "rises",
    multiple=True,
    metavar="COLUMN=VALUE",
    group="Gates",
    help="Exit with 1 if a row's COLUMN is higher than the baseline's by more than VALUE, where lower is better.",
)
@option("--strict", is_flag=True, group="Gates", help="Exit with 3 if the baseline lacks a row of the table.")
def report(
    stores: tuple[Path, ...],
    conditions: tuple[str, ...],
    output_format: str,
    outputs: tuple[Path, ...],
    minima: tuple[str, ...],
    maxima: tuple[str, ...],
    baseline: Path | None,
    drops: tuple[str, ...],
    rises: tuple[str, ...],
    strict: bool,
) -> None:
    """Print the table of one or more stores (default: ADVDEF_STORE, or ./advdef-runs), and judge it.

    Cells that failed, or that were asked for and are not there, are exit code 3, with a line each below the rows that
    are whole; so is a damaged file, and a gate on a figure that a row does not have.
    """
    from robustbench_cli.benchmarks.reports import gates
    from robustbench_cli.benchmarks.reports.rows import failed_rows, missing_rows, rows
    from robustbench_cli.benchmarks.store.store import Store
    from robustbench_cli.cli.session import failure_line

    for path in outputs:
        tables.require_place(path)
    limits = [gates.parse_limit(words, option="--fail-under") for words in minima]
    limits += [gates.parse_limit(words, option="--fail-over") for words in maxima]
    allowed = [gates.parse_limit(words, option="--max-drop") for words in drops]
    allowed += [gates.parse_limit(words, option="--max-rise") for words in rises]
    if bool(allowed) != (baseline is not None):
        raise UserError("--baseline FILE.csv and --max-drop COLUMN=VALUE need each other: give both")
    if strict and baseline is None:
        raise UserError("--strict is for rows that a --baseline does not have: give one, or leave it out")
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
    contradictions = _set_beside_certificates(table, ordered, opened, damaged)
    failures = [
        failure
        for store in opened
        for failure in store.failures(damaged=lambda error: damaged.append(str(error)))
        if failure.cell.id not in results
    ]
    absent = _absent(opened, {*results, *(failure.cell.id for failure in failures)}, damaged)
    failed, unfound = failed_rows(failures), missing_rows(absent)
    if len(table) or len(failed) or len(unfound):
        for line in gates.unmet([table, failed, unfound], wanted):
            console.warn(line)
    table = gates.select(table, wanted)
    failures = [failures[place] for place in gates.select_cells(failed, wanted).index]
    absent = [absent[place] for place in gates.select_cells(unfound, wanted).index]
    _show(table, output_format, outputs)
    for cell, line in contradictions.items():
        if cell in set(table["cell"]):
            console.warn(line)
    missing = [*damaged, *(failure_line(failure) for failure in failures), *_lines_of(absent)]
    if limits or allowed:
        verdicts = [gates.hold(table, limit) for limit in limits]
        if earlier is not None:
            before = gates.select(earlier, wanted)
            verdicts += [gates.hold_to_baseline(table, before, limit) for limit in allowed]
            without = gates.without_baseline(table, before)
            for line in () if strict else without:
                console.warn(line)
            missing += without if strict else []
        missing += [line for verdict in verdicts for line in verdict.missing]
        broken = [line for verdict in verdicts for line in verdict.broken]
        _judge(broken, missing)
        given = {"--fail-under": minima, "--fail-over": maxima, "--max-drop": drops, "--max-rise": rises}
        console.note(f"passed: {', '.join(f'{option} {one}' for option, all_ in given.items() for one in all_)}")
        return
    _judge([], missing)


_MOST_LINES = 20
"""Lines that name missing cells."""


def _absent(stores: Sequence[Store], there: Collection[str], damaged: list[str]) -> list[RequestedCell]:
    """The cells that some store was asked for and that none of them has."""
    asked = {
        cell_id: each
        for store in stores
        for cell_id, each in store.asked(damaged=lambda error: damaged.append(str(error))).items()
    }
    # Of a damaged one it is told already that it is to be computed again.
    known = {cell_id for cell_id in asked if cell_id in there or any(store.mark(cell_id) for store in stores)}
    return sorted((each for cell_id, each in asked.items() if cell_id not in known), key=lambda each: _order(each.cell))


def _lines_of(absent: Sequence[RequestedCell]) -> list[str]:
    """A line for each missing cell, up to a number, and last what to do."""
    from robustbench_cli.cli.session import missing_line

    lines = [missing_line(each) for each in absent[:_MOST_LINES]]
    if absent[_MOST_LINES:]:
        lines.append(f"and {len(absent) - _MOST_LINES} more cells are missing")
    if lines:
        lines[-1] += (
            ": the command that asked for it goes on when it is given again, and 'advdef store prune --unfinished' forgets it"
            if len(absent) == 1
            else ": the commands that asked for them go on when they are given again, and 'advdef store prune --unfinished' "
            "forgets them"
        )
    return lines


def _set_beside_certificates(
    table: pd.DataFrame, results: Sequence[tuple[Result, Store]], stores: Sequence[Store], damaged: list[str]
) -> dict[str, str]:
    """Adds the column ``certified_accuracy`` where a certificate in the same stores tells something of a row.

    Returns:
        By cell, in words, what attacks did and no certificate allows.
    """
    from robustbench_cli.benchmarks.store.store import CERTIFICATION

    folders = {store.path for store in stores if (store.path / CERTIFICATION).is_dir()}
    if not folders:
        return {}
    from robustbench_cli.benchmarks.certification.certify import stored
    from robustbench_cli.benchmarks.reports.certificate_conflicts import (
        certificate_of,
        certified_accuracy,
        contradiction,
    )

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
