"""``advdef sweep``: every cell of a suite, on one machine or many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.cli import console, tables
from robustbench_cli.cli.gate_args import GateArgs, gate_options
from robustbench_cli.cli.options import (
    Common,
    ProcessArgs,
    command,
    computing,
    is_on_command_line,
    option,
    output_files,
    output_format,
    process_options,
)
from robustbench_cli.cli.param_types import SHARD, NameOf, OneOf
from robustbench_cli.cli.reporting import Reporting
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.execution.job import Job
    from robustbench_cli.benchmarks.execution.status import CellState
    from robustbench_cli.benchmarks.store.records import Result
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.plan import Plan
    from robustbench_cli.cli.session import Engine

__all__ = ["sweep"]


@command("sweep")
@click.argument("suite", metavar="SUITE|FILE.yaml", type=NameOf("suite"))
@option("--dry-run", is_flag=True, group="Run", help="Print the cells, their state and their cost; compute nothing.")
@option(
    "--status",
    is_flag=True,
    group="Run",
    help="Print how many cells are done, running (and where), failed, stale and missing; compute nothing.",
)
@process_options(split=False)
@option(
    "--shard",
    type=SHARD,
    group="Run",
    help="Run only the I-th of N parts of the cells; other machines run the others. With --split: run it first, then help "
    "with the others.",
)
@option(
    "--engine",
    "engine_name",
    type=OneOf(("local", "ray")),
    default="local",
    show_default=True,
    group="Run",
    help="Run on this machine, or on a Ray cluster (pip install 'advdef[ray]').",
)
@option(
    "--existing",
    type=OneOf(("skip", "rerun", "error")),
    default="skip",
    show_default=True,
    group="Run",
    help="Cells that the store has: skip them, compute them again, or stop with an error.",
)
@option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    group="Run",
    help="Time limit per cell, in seconds.",
)
@output_format("table", *formats.format_names())
@output_files()
@gate_options
@computing
def sweep(
    common: Common,
    suite: str,
    dry_run: bool,
    status: bool,
    processes: ProcessArgs,
    shard: tuple[int, int] | None,
    engine_name: Literal["local", "ray"],
    existing: Literal["skip", "rerun", "error"],
    timeout: float | None,
    output_format: str,
    outputs: tuple[Path, ...],
    gates: GateArgs,
) -> None:
    """Run every cell of a suite: models, defenses, attacks, radii and seeds.

    Each model is trained once. Several processes and machines may share a store: no cell is computed twice. Run the same
    command again to resume. The gates of the suite judge the table, and so do those of the command line.
    """
    from robustbench_cli.benchmarks.suites.load import read_suite
    from robustbench_cli.cli.session import run_suite

    devices = _devices(common, engine_name, processes)
    engine = _engine(common, engine_name, devices, processes, timeout)
    config = read_suite(suite)
    select = partial(_selected, shard, existing, common.store, split=processes.split)
    gates = _gates(gates, config, shard)
    if dry_run or status:
        _require_no_run("--dry-run" if dry_run else "--status")
        _report_status(common, config, gates, shard, dry_run=dry_run)
    else:
        run_suite(
            common,
            config,
            devices=devices,
            engine=engine,
            split=processes.split,
            select=select,
            reporting=Reporting(output_format, outputs, gates),
        )


def _gates(gates: GateArgs, config: SuiteConfig, shard: tuple[int, int] | None) -> GateArgs:
    """The gates of the command line, and those of the suite unless the cells are only a part of it.

    Raises:
        UserError: A gate of the suite is not allowed.
    """
    with_suite = gates.with_suite(config)
    if shard is None or shard[1] == 1 or not config.gates:
        return with_suite
    console.note(
        f"the gates of the suite are not judged on shard {shard[0]}/{shard[1]}: 'advdef report --suite FILE' judges all of it"
    )
    return replace(with_suite, requirements=gates.requirements)


def _require_no_run(option: str) -> None:
    """Refuses options of the command line about a run or its table beside an option that prints the state of the cells.

    Raises:
        UserError: There is one.
    """
    named = {"output_format": "format", "outputs": "output", "engine_name": "engine"}
    for name in (*gate_options.names, *named, *process_options(split=False).names, "existing", "timeout"):
        if is_on_command_line(name):
            given = named.get(name, name.replace("_", "-"))
            raise UserError(f"{option} computes nothing, so that --{given} changes nothing: leave one of them out")


def _report_status(
    common: Common, config: SuiteConfig, gates: GateArgs, shard: tuple[int, int] | None, *, dry_run: bool
) -> None:
    """Prints how far the cells of a suite are; with ``dry_run`` also each cell and its cost."""
    from robustbench_cli.benchmarks.suites.plan import plan
    from robustbench_cli.cli.notices import (
        note_other_norms,
        warn_of_radii,
        warn_of_small_datasets,
        warn_of_unused_options,
    )
    from robustbench_cli.cli.session import cache_for, job_options

    with console.progress() as progress:
        planned = plan(config, cache_for=cache_for(common, progress), seed=common.seed)
        note_other_norms(planned)
        warn_of_radii(config, planned.norms)
        warn_of_unused_options(config, planned.models)
        gates.require_rows(partial(planned.expected_jobs, job_options(common)))
        stored = _stored(common.store)
        cells = _states(common, planned, shard, stored, costs=dry_run)
    warn_of_small_datasets(config, {state.job.cell.dataset: state.job.cell.n for state in cells})
    if dry_run:
        console.report(tables.cell_states(cells))
    console.report(_summary(common, planned, cells))
    if dry_run:
        console.report(_left(stored.values(), [state for state in cells if state.state != "done"]))


def _devices(common: Common, engine: Literal["local", "ray"], processes: ProcessArgs) -> list[str]:
    """A device for each process that is to be started on this machine; none where this process does all of it."""
    if engine == "local":
        return processes.devices(common)
    if processes.gpus is not None:
        raise UserError("--gpus are this machine's, and Ray hands out its own: give --device cuda and --per-gpu")
    if processes.split:
        raise UserError("--split is not for Ray, which runs each cell on one node: give --jobs or --gpus, or a --shard")
    return []


def _engine(
    common: Common,
    name: Literal["local", "ray"],
    devices: Sequence[str],
    args: ProcessArgs,
    timeout: float | None,
) -> Engine | None:
    """What runs the cells; ``None`` for this process."""
    if name == "ray":
        from robustbench_cli.benchmarks.execution.engines import ray

        return partial(ray.run, processes=args.jobs, per_gpu=args.per_gpu or 1, timeout=timeout)
    from robustbench_cli.cli.session import in_processes

    # Only another process can be ended when its time is over.
    needs_process = timeout is not None and not devices
    return in_processes([str(common.torch_device())] if needs_process else devices, timeout=timeout)


def _selected(
    shard: tuple[int, int] | None,
    existing: Literal["skip", "rerun", "error"],
    store: Path,
    jobs: list[Job],
    *,
    split: bool = False,
) -> list[Job]:
    """The jobs of a shard; those that are done are skipped, run again or refused. The rest follow where cells are split."""
    from robustbench_cli.benchmarks.execution.engines import schedule
    from robustbench_cli.benchmarks.execution.worker import is_done, rerun

    selected = jobs if shard is None else schedule.shard(jobs, *shard)
    if split:
        own = {job.cell.id for job in selected}
        selected = [*selected, *(job for job in jobs if job.cell.id not in own)]
    if existing == "error" and (done := [job for job in selected if is_done(job)]):
        raise UserError(
            f"{len(done)}/{len(selected)} cells cached in {store}: give another --store, or --existing skip"
        )
    return rerun(selected) if existing == "rerun" else selected


def _states(
    common: Common, planned: Plan, shard: tuple[int, int] | None, stored: dict[str, Result], *, costs: bool
) -> list[CellState]:
    from robustbench_cli.benchmarks.execution.status import states
    from robustbench_cli.cli.session import job_options

    jobs = planned.expected_jobs(job_options(common))
    return states(
        _selected(shard, "skip", common.store, jobs),
        [model.expected for model in planned.models],
        stored=stored,
        suite_cells={job.cell.id for job in jobs},
        untrained={model.expected.identity for model in planned.models if model.needs_training},
        costs=costs,
    )


def _stored(store: Path) -> dict[str, Result]:
    """The results in a store by cell, as far as they can be read."""
    from robustbench_cli.benchmarks.store.store import Store

    if not store.is_dir():
        return {}
    return {result.cell.id: result for result in Store(store).results(damaged=lambda _: None)}


def _summary(common: Common, planned: Plan, cells: Sequence[CellState]) -> str:
    """The number of cells in each state; the cells of another version, the partly done and the running ones; what is to train."""
    from robustbench_cli.benchmarks.execution.status import STATES
    from robustbench_cli.benchmarks.execution.worker import lease_name
    from robustbench_cli.benchmarks.store.leases import Leases
    from robustbench_cli.cli.descriptions import describe_cell

    counted = Counter(cell.state for cell in cells)
    lines = [
        f"{len(cells)} cells: {', '.join(f'{counted[state]} {state}' for state in STATES if counted[state]) or 'none'}"
    ]
    older = [cell for cell in cells if cell.state == "done" and cell.changed]
    if older:
        lines.append(f"{len(older)} of another version ({older[0].changed[0]}): --existing rerun computes them again")
    lines += [
        f"partly done: {describe_cell(cell.job)}, {cell.images_stored} of {cell.job.cell.n} images"
        for cell in cells
        if cell.images_stored
    ]
    leases = Leases(common.store)
    lines += [
        f"running: {describe_cell(cell.job)}, {leases.holder(lease_name(cell.job)) or 'done by now'}"
        for cell in cells
        if cell.state == "running"
    ]
    lines += [
        f"{'being trained' if cache.is_being_trained(training) else 'to train'}: {training.label}"
        for cache, training in planned.trainings
    ]
    return "\n".join(lines)


def _left(stored: Iterable[Result], cells: Sequence[CellState]) -> str:
    """An upper bound on what is left to compute of cells."""
    from robustbench_cli.benchmarks.execution.status import seconds_a_pass
    from robustbench_cli.cli.descriptions import duration

    if not cells:
        return "left: nothing"
    measured = seconds_a_pass(stored)
    times = [_seconds(cell, measured) for cell in cells]
    known_times = [seconds for seconds in times if seconds is not None]
    costs = [cell.passes_left for cell in cells if cell.passes_left is not None]

    def unknown_cells(number: int) -> str:
        return f" and {number} cells of unknown cost" if number else ""

    passes = f"at most {sum(costs):,} passes{unknown_cells(len(cells) - len(costs))}" if costs else "unknown"
    time = (
        f"at most {duration(sum(known_times))} in one process{unknown_cells(len(cells) - len(known_times))}"
        if known_times
        else "unknown"
    )
    return f"left: {passes}; time: {time}"


def _seconds(cell: CellState, measured: dict[tuple[str, str], float]) -> float | None:
    """What a cell takes at most, from what the store has measured of the same model."""
    rate = measured.get((cell.job.cell.dataset, cell.job.cell.model))
    return None if rate is None or cell.passes_left is None else rate * cell.passes_left
