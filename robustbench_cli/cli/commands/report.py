"""``advdef report``: the table of stored results, and the gates of a CI pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from robustbench_cli.benchmarks.corruptions import BENCHMARK
from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.benchmarks.reports.compared_columns import COMPARED
from robustbench_cli.cli import console, tables
from robustbench_cli.cli.gate_args import GateArgs, Unfinished, gate_options
from robustbench_cli.cli.leaderboard import show_standings
from robustbench_cli.cli.options import (
    command,
    data_dir_option,
    is_from_project,
    is_on_command_line,
    named_stores,
    option,
    output_files,
    output_format,
)
from robustbench_cli.cli.param_types import NameOf
from robustbench_cli.cli.plot_args import PlotArgs, plot_options
from robustbench_cli.cli.reporting import Reporting, audited_verdicts, page_content
from robustbench_cli.cli.reporting import show as show_results
from robustbench_cli.cli.scored_tables import show_scored
from robustbench_cli.cli.table_args import TableArgs, table_options
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.own_code import own_code_refused

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
    from robustbench_cli.benchmarks.reports.certified_columns import Contradictions
    from robustbench_cli.benchmarks.reports.comparisons import ComparedRows
    from robustbench_cli.benchmarks.reports.html.content import PageContent
    from robustbench_cli.benchmarks.reports.rows import Together
    from robustbench_cli.benchmarks.reports.trackers.destination import Destination
    from robustbench_cli.benchmarks.store.cell import Cell
    from robustbench_cli.benchmarks.store.records import Failure, RequestedCell, Result
    from robustbench_cli.benchmarks.store.store import Store
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.stored_cells import SuiteCells
    from robustbench_cli.cli.gate_args import Judged

__all__ = ["report"]

Damaged = Callable[[UserError], None]
"""Takes the error of a damaged file."""


@command("report")
@named_stores
@option(
    "--where",
    "conditions",
    multiple=True,
    metavar="KEY=VALUE",
    group="Rows",
    help="Only rows whose column KEY is VALUE. Several keys must all fit; of several values for one key, any.",
)
@option(
    "--leaderboard",
    metavar="NAME",
    group="Rows",
    help="Show where the models would stand on a public leaderboard, in place of the table: cifar10-linf, cifar10-l2, "
    "cifar100-linf or imagenet-linf; of the suite corruptions cifar10-, cifar100- or imagenet-corruptions.",
)
@option(
    "--compare",
    metavar="COLUMN|ROW",
    group="Rows",
    help="Show paired tests of robust accuracies on the same images, in place of the table: of all pairs of rows that differ in "
    f"COLUMN ({', '.join(COMPARED[:-1])} or {COMPARED[-1]}), or of ROW (such as defense=none, or a cell) and the row of --with.",
)
@option(
    "--with", "other_row", metavar="ROW", group="Rows", help="The second row of --compare ROW, such as defense=hrs."
)
@option(
    "--protocols",
    "by_protocol",
    is_flag=True,
    group="Rows",
    help="Show the accuracies of randomized models under each protocol that papers use (expected, one draw, vote, best of k, every "
    "draw), in place of the table.",
)
@option(
    "--union",
    "by_norm",
    is_flag=True,
    group="Rows",
    help="Show the robust accuracy of each model in each norm and against the union of the norms (the per-image worst case over all "
    "attacks, each at its radius), in place of the table.",
)
@option(
    "--by-class",
    "by_class",
    is_flag=True,
    group="Rows",
    help="Show the recall and the precision of each class, clean and under attack, in place of the table.",
)
@option(
    "--corruption-baseline",
    metavar="alexnet|FILE.csv",
    group="Rows",
    help="Add the mean corruption error (mce): errors divided by those of AlexNet (ImageNet) or of the model in this table.",
)
@option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    group="Output",
    help="Show the adversarial images in this folder, that of 'advdef attack --save-images', in the HTML page.",
)
@option(
    "--suite",
    metavar="FILE.yaml",
    group="Gates",
    type=NameOf("suite"),
    help="Show the cells of this suite file alone, and judge them by its gates; a cell that no store has is missing. Formats of "
    "pipelines name its lines. A file that sets gates alone judges all rows.",
)
@data_dir_option
@output_format("table", *formats.format_names())
@output_files()
@option(
    "--to",
    "trackers",
    multiple=True,
    metavar="TRACKER:PLACE",
    group="Output",
    help="Write a run for each model to an experiment tracker too: tensorboard:DIR, mlflow:URI or wandb:PROJECT; repeatable. "
    "Results that are there already make no second run.",
)
@table_options
@plot_options
@gate_options
def report(
    stores: tuple[Path, ...],
    conditions: tuple[str, ...],
    leaderboard: str | None,
    compare: str | None,
    other_row: str | None,
    by_protocol: bool,
    by_norm: bool,
    by_class: bool,
    corruption_baseline: str | None,
    images: Path | None,
    suite: str | None,
    data_dir: Path | None,
    output_format: str,
    outputs: tuple[Path, ...],
    trackers: tuple[str, ...],
    view: TableArgs,
    plots: PlotArgs,
    gates: GateArgs,
) -> None:
    """Print the table of one or more stores (default: ./advdef-runs, or what ADVDEF_STORE or pyproject.toml names), and judge it by gates.

    The exit code is 3, with a line for each cause, if cells failed or are missing, if a file is damaged, or if a gate
    judges a value that a row does not have. The complete rows are printed all the same.
    """
    from robustbench_cli.benchmarks.reports.gates import parse_conditions
    from robustbench_cli.benchmarks.store.store import Store

    others = {"--protocols": by_protocol, "--union": by_norm, "--by-class": by_class}
    others |= {"--leaderboard": bool(leaderboard), "--compare": bool(compare)}
    other = _only([name for name, value in others.items() if value])
    plots.require_table(output_format, other)
    view.require_format(output_format, outputs)
    tables.require_writable(outputs)
    show = _shown(other, leaderboard, _comparison(compare, other_row), view, images)
    _require_images(images, output_format, outputs)
    destinations = _destinations(trackers, other)
    allowed = parse_conditions(conditions)
    config = None if suite is None else _suite(suite)
    if config is None and is_on_command_line("data_dir"):
        raise UserError("--data-dir changes nothing without --suite, whose cells depend on the images: leave it out")
    plan = None if config is None else _Plan(suite or "", partial(_planned_cells, config, data_dir))
    reporting = Reporting(output_format, outputs, gates if config is None else gates.with_suite(config), view)
    content = _Content.of([Store(path) for path in stores], allowed, corruption_baseline, plan)
    # The table has named the damaged files.
    audits = partial(audited_verdicts, stores, damaged=lambda _: None)
    judged = reporting.gates.judged(content.table, allowed=allowed, unfinished=content.unfinished, audits=audits)
    plots.write(content.table, audits)
    show(content, judged, reporting)
    plots.show(content.table)
    for destination in destinations:
        console.note(destination.write(judged.table))
    for line in content.conflicts:
        console.warn(line)
    if content.impossible:
        _refuse_contradicted_proofs(content.impossible)
    judged.finish()


def _planned_cells(config: SuiteConfig, data_dir: Path | None, stored: Sequence[Cell]) -> SuiteCells | None:
    # It imports multiprocessing, after which a signal during an import is no longer one line.
    from robustbench_cli.cli.session import planned_cells

    # Nobody asks for code who reads a store in a folder of others.
    reason = "the suite is one of pyproject.toml, and a report only reads: name it yourself with --suite FILE.yaml"
    with own_code_refused(reason) if is_from_project("suite") else nullcontext():
        return planned_cells(config, data_dir, stored)


def _destinations(texts: Sequence[str], other: str | None) -> list[Destination]:
    """The trackers of ``--to``.

    Raises:
        UserError: One is unknown or not installed, or another table than that of results is shown.
    """
    if texts and other is not None:
        raise UserError(f"--to takes the table of results, and {other} shows another one: leave one out")
    if not texts:
        return []
    from robustbench_cli.benchmarks.reports.trackers.destination import parse_destination

    return [parse_destination(text) for text in texts]


def _suite(name: str) -> SuiteConfig:
    """The suite file of ``--suite``.

    Raises:
        UserError: It cannot be read, or has no gates.
    """
    from robustbench_cli.benchmarks.suites.load import read_suite

    config = read_suite(name)
    if not config.gates:
        raise UserError(f"--suite {name} has no gates: add a line such as gates: ['robust_accuracy_low=0.38']")
    return config


def _require_images(images: Path | None, output_format: str, outputs: Sequence[Path]) -> None:
    """Checks the folder of images.

    Raises:
        UserError: There is no such folder, or no format shows images.
    """
    if images is None:
        return
    if "html" not in {output_format, *map(formats.format_of_file, outputs)}:
        raise UserError(f"--images {images}: only the HTML page shows images: give --format html, or -o FILE.html")
    if not images.is_dir():
        raise UserError(f"--images {images}: no such folder: 'advdef attack --save-images {images}' makes it")


def _refuse_contradicted_proofs(lines: Sequence[str]) -> NoReturn:
    """Ends the command as an internal error.

    Raises:
        ContradictedProofError: Always.
    """
    from robustbench_cli.benchmarks.reports.certificate_conflicts import ContradictedProofError

    raise ContradictedProofError("; ".join(lines))


def _comparison(compare: str | None, other_row: str | None) -> ComparedRows | None:
    """What ``--compare`` and ``--with`` ask for; ``None`` without them.

    Raises:
        UserError: They are not allowed.
    """
    from robustbench_cli.benchmarks.reports.comparisons import parse_comparison

    if compare is None and other_row is not None:
        raise UserError(f"--with {other_row}: it is the second row of a comparison: give the first one with --compare")
    return None if compare is None else parse_comparison(compare, other_row)


_RESUME = "resume with the command that began it, or forget it with 'advdef store prune --unfinished'"

_MAX_LINES = 20
"""The largest number of lines that name missing cells."""


@dataclass(frozen=True)
class _Plan:
    """The suite of ``--suite``.

    Attributes:
        file: Its file.
        cells: Gives, for all cells of the stores, those of the suite that count; ``None`` if all count.
    """

    file: str
    cells: Callable[[Sequence[Cell]], SuiteCells | None]

    @property
    def advice(self) -> str:
        """What computes its missing cells."""
        return f"run 'advdef sweep {self.file}' with the same store; --dry-run says if a stored one is stale, and why"


@dataclass
class _Content:
    """What stores hold.

    Attributes:
        table: The rows that the user selects.
        results: All results whose files are intact, those of other rows included.
        read: Reads the outcomes of some of them.
        unfinished: The damaged files, and the failed and missing cells among them.
        conflicts: A line for each of the rows that contradicts a certificate by smoothing.
        impossible: A line for each of the rows that contradicts a proof.
        stores: The stores.
    """

    table: pd.DataFrame
    results: list[Result]
    read: Callable[[Sequence[Result]], Together | None]
    unfinished: Unfinished
    conflicts: list[str]
    impossible: list[str]
    stores: Sequence[Store]

    @classmethod
    def of(
        cls,
        stores: Sequence[Store],
        allowed: Mapping[str, Sequence[str]],
        corruption_baseline: str | None,
        plan: _Plan | None = None,
    ) -> _Content:
        """Reads stores.

        Args:
            stores: The stores; a cell that several of them have counts once.
            allowed: The values allowed for each column.
            corruption_baseline: What the corruption errors are divided by.
            plan: The suite whose cells count; all cells count without one.
        """
        from robustbench_cli.benchmarks.audit.row_groups import flags_of_groups
        from robustbench_cli.benchmarks.reports import gates
        from robustbench_cli.benchmarks.reports.corruption_means import read_corruption_baseline, with_corruption_errors
        from robustbench_cli.benchmarks.reports.rows import rows
        from robustbench_cli.benchmarks.store.together import read_together

        damaged: list[str] = []

        def collect(error: UserError) -> None:
            damaged.append(str(error))

        # First of all, since most of what was requested is forgotten again.
        requested = {cell_id: entry for store in stores for cell_id, entry in store.missing(damaged=collect).items()}
        results = _results(stores, collect)
        failures = _failures(stores, results, collect)
        advice = _RESUME
        if plan is not None and (suite := plan.cells([result.cell for result, _ in results.values()])) is not None:
            results, failures, requested = _of_suite(suite, results, failures)
            advice = plan.advice
        intact: list[Result] = []

        def read(attacks: Sequence[Result]) -> tuple[list[Result], Outcomes] | None:
            together = read_together(attacks, lambda result: results[result.cell.id][1], damaged=collect)
            intact.extend(together[0] if together is not None else ())
            return together

        ordered = sorted((result for result, _ in results.values()), key=lambda result: _order(result.cell))
        table = rows(ordered, read, flags_of_groups([store.path for store in stores], damaged=collect))
        if corruption_baseline is not None:
            errors = read_corruption_baseline(corruption_baseline)
            table = with_corruption_errors(table, errors, name=corruption_baseline)
        conflicts = _add_certified_columns(table, [results[result.cell.id] for result in intact], stores, collect)
        absent = _absent(requested, stores, {failure.cell.id for failure in failures})
        unfinished = _unfinished(table, failures, absent, allowed, damaged=damaged, advice=advice)
        table = gates.select(table, allowed)
        shown = {*table["cell"]}
        return cls(
            table,
            intact,
            partial(read_together, store_of=lambda result: results[result.cell.id][1], damaged=lambda _: None),
            unfinished,
            [] if conflicts is None else _of_cells(conflicts.of_smoothing, shown),
            [] if conflicts is None else _of_cells(conflicts.of_proofs, shown),
            stores,
        )

    def of_page(self, table: pd.DataFrame, *, images: Path | None) -> PageContent:
        """All that an HTML page shows; see :func:`~robustbench_cli.cli.reporting.page_content`."""
        return page_content(
            table,
            stores=[store.path for store in self.stores],
            results=self.results,
            read=self.read,
            images=images,
            missing=self.unfinished.lines,
            conflicts=[*self.impossible, *self.conflicts],
        )


def _results(stores: Sequence[Store], collect: Damaged) -> dict[str, tuple[Result, Store]]:
    """The results of stores, by identity, each with its store; the outcomes of most are not read yet.

    Of a cell that several stores have, the last intact one counts.
    """
    results: dict[str, tuple[Result, Store]] = {}
    for store in stores:
        for result in store.unverified(damaged=collect):
            copies = [(result, store)]
            if result.cell.id in results:
                copies = [copy for copy in (results.pop(result.cell.id), *copies) if _is_intact(*copy, collect)]
            if len({copy.outcomes_sha256 for copy, _ in copies}) > 1:
                first, last = (place.path for _, place in copies)
                console.warn(
                    f"{first} and {last} have different results of the cell {result.cell.id}: the one in {last} counts"
                )
            if copies:
                results[result.cell.id] = copies[-1]
    return results


def _failures(stores: Sequence[Store], results: Collection[str], collect: Damaged) -> list[Failure]:
    """The failures of cells that no store has a result of."""
    failures = [failure for store in stores for failure in store.failures(damaged=collect)]
    return [failure for failure in failures if failure.cell.id not in results]


def _of_suite(
    suite: SuiteCells, results: dict[str, tuple[Result, Store]], failures: list[Failure]
) -> tuple[dict[str, tuple[Result, Store]], list[Failure], dict[str, RequestedCell]]:
    """The results and failures of a suite, and its other cells, requested or not."""
    of_suite = {cell_id: entry for cell_id, entry in results.items() if entry[0].cell in suite}
    failed = [failure for failure in failures if failure.cell in suite]
    return (
        of_suite,
        failed,
        suite.absent([*(result.cell for result, _ in of_suite.values()), *(failure.cell for failure in failed)]),
    )


def _is_intact(result: Result, store: Store, collect: Damaged) -> bool:
    """Whether the outcomes of a result can be read."""
    try:
        store.outcomes_of(result)
    except UserError as error:
        collect(error)
        return False
    return True


def _absent(
    missing: Mapping[str, RequestedCell], stores: Sequence[Store], failed: Collection[str]
) -> list[RequestedCell]:
    """The cells that some store misses, by identity, and that none has or has tried."""
    # A damaged result has a line of its own already.
    absent = [
        entry
        for cell_id, entry in missing.items()
        if cell_id not in failed and not any(store.result_hash(cell_id) for store in stores)
    ]
    return sorted(absent, key=lambda entry: _order(entry.cell))


def _unfinished(
    table: pd.DataFrame,
    failures: Sequence[Failure],
    absent: Sequence[RequestedCell],
    allowed: Mapping[str, Sequence[str]],
    *,
    damaged: Sequence[str],
    advice: str,
) -> Unfinished:
    """The allowed cells among those that failed or are missing; warns of conditions that fit none of all these rows."""
    from robustbench_cli.benchmarks.reports import gates
    from robustbench_cli.benchmarks.reports.rows import failed_rows, missing_rows
    from robustbench_cli.cli.descriptions import failure_line

    all_rows = (table, failed_rows(failures), missing_rows(absent))
    for line in gates.unmet(all_rows, allowed) if any(map(len, all_rows)) else ():
        console.warn(line)
    failed, missing = (gates.select_cells(cells, allowed) for cells in all_rows[1:])
    cells = [
        *(failure_line(failures[index]) for index in failed.index),
        *_missing_lines([absent[index] for index in missing.index]),
    ]
    if cells:
        cells[-1] += f": {advice}"
    errors = [failures[index].error for index in failed.index]
    return Unfinished([*damaged, *cells], failed, missing, errors, damaged, f"it is missing: {advice}")


def _missing_lines(absent: Sequence[RequestedCell]) -> list[str]:
    """A line for each missing cell, up to :data:`_MAX_LINES`."""
    from robustbench_cli.cli.descriptions import missing_line

    lines = [missing_line(entry) for entry in absent[:_MAX_LINES]]
    if absent[_MAX_LINES:]:
        lines.append(f"and {len(absent) - _MAX_LINES} more cells are missing")
    return lines


def _of_cells(lines: Mapping[str, Sequence[str]], cells: Collection[str]) -> list[str]:
    return [line for cell, of_cell in lines.items() if cell in cells for line in of_cell]


def _add_certified_columns(
    table: pd.DataFrame, results: Sequence[tuple[Result, Store]], stores: Sequence[Store], collect: Damaged
) -> Contradictions | None:
    """Adds the columns of certificates where the stores hold any, and returns what speaks against these."""
    from robustbench_cli.benchmarks.store.store import CERTIFICATION

    folders = {store.path for store in stores if (store.path / CERTIFICATION).is_dir()}
    if not folders:
        return None
    from robustbench_cli.benchmarks.certification.certify import stored
    from robustbench_cli.benchmarks.reports.certified_columns import add_certified_columns

    models = [model for folder in sorted(folders) for model in stored(folder, damaged=collect)]
    cells = [(result.cell, partial(store.outcomes_of, result)) for result, store in results]
    return add_certified_columns(table, cells, models)


def _order(cell: Cell) -> tuple[Any, ...]:
    """Sorts the undefended model first, then radii from small to large, with comparable cells side by side."""
    radius = math.inf if cell.eps is None else cell.eps
    model = (cell.dataset, cell.model, bool(cell.defenses), cell.defense, cell.checkpoint)
    return (*model, *_corruption_order(cell), cell.norm, radius, cell.attack.label, str(cell.eot), cell.seed)


def _corruption_order(cell: Cell) -> tuple[Any, ...]:
    """Sorts the images without a corruption first, then the corruptions in the order of the benchmark."""
    if cell.corruption is None:
        return -1, "", 0
    name = cell.corruption.name
    return BENCHMARK.index(name) if name in BENCHMARK else len(BENCHMARK), str(cell.corruption_label), cell.severity


def _only(options: Sequence[str]) -> str | None:
    """The option that takes the place of the table; ``None`` without one.

    Raises:
        UserError: Several do.
    """
    if len(options) > 1:
        raise UserError(
            "--leaderboard, --compare, --protocols, --union and --by-class each take the place of the table: give one of them"
        )
    return options[0] if options else None


def _shown(
    other: str | None, leaderboard: str | None, comparison: ComparedRows | None, view: TableArgs, images: Path | None
) -> Callable[[_Content, Judged, Reporting], None]:
    """What prints the content of the stores in a format and writes it to files: the table, or what takes its place.

    Raises:
        UserError: An option of the table is beside one that takes its place.
    """
    if other is None:
        return lambda content, judged, reporting: show_results(
            judged, reporting, partial(content.of_page, images=images)
        )
    view.require_none(other)
    if leaderboard is not None:
        return lambda content, _, reporting: show_standings(
            leaderboard, content.table, content.results, reporting.output_format, reporting.outputs
        )
    return lambda content, _, reporting: show_scored(
        other,
        comparison,
        content.table,
        content.results,
        content.read,
        output_format=reporting.output_format,
        outputs=reporting.outputs,
    )
