"""The road of every command that attacks: plan, train, expand, run, report."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from robustbench_cli.cli import console, tables
from robustbench_cli.cli.descriptions import describe_cell, failure_line
from robustbench_cli.cli.exit_codes import CellsFailed
from robustbench_cli.cli.gate_args import Unfinished
from robustbench_cli.cli.notices import (
    note_cascades,
    note_idle_processes,
    note_other_norms,
    warn_of_chance,
    warn_of_radii,
    warn_of_small_datasets,
    warn_of_unused_options,
)
from robustbench_cli.cli.progress import JobProgress, TrainingBars
from robustbench_cli.cli.reporting import Reporting, audited_verdicts, page_content, show
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.execution.job import Job, JobOptions
    from robustbench_cli.benchmarks.store.cell import Cell
    from robustbench_cli.benchmarks.store.records import Failure, Result
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.plan import CacheFor, Plan
    from robustbench_cli.benchmarks.suites.stored_cells import SuiteCells
    from robustbench_cli.benchmarks.training.model_cache import ModelCache
    from robustbench_cli.benchmarks.training.train import Training
    from robustbench_cli.cli.options import Common

__all__ = [
    "Engine",
    "cache_for",
    "in_processes",
    "job_options",
    "planned_cells",
    "run_suite",
]


class Engine(Protocol):
    """Runs jobs; see :mod:`robustbench_cli.benchmarks.execution.engines`."""

    def __call__(
        self,
        jobs: Iterable[Job],
        *,
        finished: Callable[[Job, Result | Failure], None],
        progress: Callable[[Job, int], None],
    ) -> None:
        """Runs jobs.

        Args:
            jobs: In the order in which they should run.
            finished: Called with each job that has ended and its result or failure.
            progress: Called with a job that is running and the number of its images that are done.
        """


def run_suite(
    common: Common,
    config: SuiteConfig,
    *,
    devices: Sequence[str] = (),
    engine: Engine | None = None,
    split: bool = False,
    select: Callable[[list[Job]], list[Job]] = lambda jobs: jobs,
    save_images: Path | None = None,
    reporting: Reporting | None = None,
) -> None:
    """Runs every cell of a suite that the store does not have, reports all of them, and judges them by gates.

    Args:
        common: The options of the command.
        config: The suite.
        devices: A device for each training process; none trains in this process.
        engine: Runs the jobs; this process where not given.
        split: Whether several processes may compute one cell.
        select: Chooses the jobs to run.
        save_images: The folder for the adversarial images.
        reporting: The format and the files of the table, and the gates.

    Raises:
        CellsFailed: A cell failed, or a row cannot be judged.
        GateFailed: A row breaks a gate.
    """
    from robustbench_cli.benchmarks.execution.engines import local
    from robustbench_cli.benchmarks.suites.plan import plan

    reporting = reporting or Reporting()
    tables.require_writable(reporting.outputs)
    with console.progress() as progress:
        planned = plan(config, cache_for=cache_for(common, progress), seed=common.seed)
        _require_writable(common.store, save_images)
        note_other_norms(planned)
        warn_of_radii(config, planned.norms)
        warn_of_unused_options(config, planned.models)
        reporting.gates.require_rows(partial(planned.expected_jobs, job_options(common)))
        _train(common, planned, devices)
        note_cascades(planned)
        jobs = planned.jobs(job_options(common, save_images, split=split))
        selected = select(jobs)
        _request(jobs, common.store)
        missing = _missing(selected, common.store)
        note_idle_processes(missing, len(devices), split=split)
        shown = JobProgress(progress, missing, searched=_searched(missing))
        (engine or local.run)(missing, finished=shown.finished, progress=shown.progress)
    results, failures = _results(common, selected, shown)
    warn_of_small_datasets(config, {job.cell.dataset: job.cell.n for job in jobs})
    warn_of_chance(planned, results)
    _report(common.store, results, failures, reporting, save_images)


def in_processes(devices: Sequence[str], *, timeout: float | None = None) -> Engine | None:
    """What runs jobs in a process for each device.

    Args:
        devices: Torch devices.
        timeout: Time limit per job, in seconds.

    Returns:
        ``None`` if there is no device, for this process.
    """
    if not devices:
        return None
    from robustbench_cli.benchmarks.execution.engines import processes

    return partial(processes.run, devices=devices, timeout=timeout)


def job_options(common: Common, images: Path | None = None, *, split: bool = False) -> JobOptions:
    """Where and how the jobs of a command run.

    Args:
        common: The options of the command.
        images: The folder for the adversarial images.
        split: Whether several processes may compute one cell.
    """
    from robustbench_cli.benchmarks.execution.job import JobOptions

    return JobOptions(
        store=common.store,
        images=images,
        data_dir=common.data_dir,
        device=str(common.torch_device()),
        batch_size=common.batch_size,
        split=split,
    )


def cache_for(common: Common, progress: console.Progress) -> CacheFor:
    """Gives model caches whose trainings are shown as progress bars, or as one line per network.

    Args:
        common: The options of the command.
        progress: Where trainings are shown.
    """
    from robustbench_cli.benchmarks.training.model_cache import ModelCache

    shown = TrainingBars(progress)

    def cache(dataset: str, recipe: dict[str, Any], seed: int) -> ModelCache:
        return ModelCache(
            dataset=dataset,
            data_dir=common.data_dir,
            device=common.torch_device(),
            seed=seed,
            recipe=recipe,
            begin=lambda label, path: console.note(f"training {label}; checkpoint: {path}"),
            wait=lambda label: console.note(f"waiting for another process that is training {label}"),
            progress=shown,
        )

    return cache


def planned_cells(config: SuiteConfig, data_dir: Path | None, stored: Sequence[Cell]) -> SuiteCells | None:
    """The cells of a suite, to find them in stores; see :func:`~robustbench_cli.benchmarks.suites.stored_cells.suite_cells`.

    Args:
        config: The suite.
        data_dir: The folder of data sets.
        stored: The cells of the stores. Where the suite has no seed, that of most of its stored cells counts.

    Raises:
        UserError: The suite cannot be planned.
    """
    from robustbench_cli.benchmarks.suites.stored_cells import suite_cells
    from robustbench_cli.cli.options import Common

    def cells(seed: int) -> SuiteCells | None:
        common = Common(store=Path(), device="cpu", seed=seed, data_dir=data_dir, batch_size=None)
        caches = cache_for(common, console.Progress(None, about=""))
        return suite_cells(config, cache_for=caches, seed=seed, options=job_options(common))

    seeds = [0] if config.seeds else sorted({cell.seed for cell in stored})
    planned = [suite for seed in seeds or [0] if (suite := cells(seed)) is not None]
    return min(planned, key=lambda suite: len(suite.absent(stored)), default=None)


def _train(common: Common, planned: Plan, devices: Sequence[str]) -> None:
    """Trains what the cache does not have, in several processes where there are several devices."""
    trainings = planned.trainings
    if len(trainings) > 1:
        console.note(f"{len(trainings)} models to train")
    # A single model is trained here, if on the same device: a process would have to start first.
    if devices and (len(trainings) > 1 or (trainings and devices[0] != str(common.torch_device()))):
        _train_in_processes(common, [training for _, training in trainings], devices)
    planned.train()


def _train_in_processes(common: Common, trainings: Sequence[Training], devices: Sequence[str]) -> None:
    """Trains models side by side. A training that fails is left to the caller, who reports the error.

    Args:
        common: The options of the command.
        trainings: Each once, after those that it starts from.
        devices: A torch device for each process.
    """
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(
            target=_train_pending, args=(common.on(device), list(trainings), console.settings.quiet), daemon=True
        )
        for device in devices[: len(trainings)]
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.kill()


def _train_pending(common: Common, trainings: Sequence[Training], quiet: bool) -> None:
    """Trains, in a process of its own, whatever no other process is training, until nothing is left."""
    from robustbench_cli.benchmarks.training.model_cache import TRAINING_PAUSE

    # Ctrl-C reaches every process of the terminal; the parent decides what becomes of this one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    console.settings.quiet = quiet
    pending = list(trainings)
    while pending:
        busy = [training for training in pending if not _is_settled(common, training)]
        if len(busy) == len(pending):
            time.sleep(TRAINING_PAUSE)
        pending = busy


def _is_settled(common: Common, training: Training) -> bool:
    """Trains a model unless another process is; ``False`` then. One that cannot be trained is settled too."""
    try:
        cache = cache_for(common, console.Progress(None, about=training.label))(training.dataset, {}, training.seed)
        return cache.train_if_free(training)
    except UserError:
        return True


def _require_writable(store: Path, images: Path | None) -> None:
    """Makes sure that every result can be stored, before anything is computed."""
    from robustbench_cli.benchmarks.store.store import Store
    from robustbench_cli.core.atomic_write import ensure_writable

    Store(store).ensure_writable()
    if images is not None:
        ensure_writable(images)


def _request(jobs: list[Job], store: Path) -> None:
    """Records in the store which cells were requested, those of other shards too: a report without them is incomplete."""
    from robustbench_cli.benchmarks.store.records import RequestedCell
    from robustbench_cli.benchmarks.store.store import Store

    Store(store).request(RequestedCell(cell=job.cell, eps=job.eps, checkpoint=job.named_checkpoint) for job in jobs)


def _missing(jobs: Sequence[Job], store: Path) -> list[Job]:
    """The jobs whose results the store does not have."""
    from robustbench_cli.benchmarks.execution.worker import is_done

    missing = [job for job in jobs if not is_done(job)]
    if len(missing) < len(jobs):
        console.note(f"{len(jobs) - len(missing)}/{len(jobs)} cells cached in {store}")
    return missing


def _searched(jobs: Sequence[Job]) -> set[str]:
    """The names of the searches of minimal-norm attacks that the store has, though not their results at these radii."""
    from robustbench_cli.benchmarks.execution.worker import has_search, lease_name

    return {lease_name(job) for job in jobs if has_search(job)}


def _results(common: Common, jobs: Sequence[Job], shown: JobProgress) -> tuple[list[Result], list[Failure]]:
    """The results of jobs in their order, computed now or stored before; and the failures.

    A result has the names that this command gives to its images and weights.
    """
    from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages
    from robustbench_cli.benchmarks.store.records import Failure
    from robustbench_cli.benchmarks.store.store import Store
    from robustbench_cli.core.atomic_write import display_path

    store, failures = Store(common.store), list(shown.failures)
    failed = {failure.cell.id for failure in failures}
    results = []
    for job in jobs:
        if job.cell.id in failed:
            continue
        if job.images is not None:
            file = job.images / f"{job.cell.id}.npz"
            accuracy = SavedImages.read(job.images, job.cell.id).robust_accuracy
            console.note(f"{file}: {describe_cell(job)}: robust {accuracy:.3f} in 8 bits")
        try:
            result = shown.results.get(job.cell.id) or store.result(job.cell.id)
        except UserError as error:
            # A damaged result must not hide the others.
            failures.append(Failure(cell=job.cell, eps=job.eps, error=str(error)))
            continue
        # The same images and weights may have had other names when they were attacked.
        names = {
            "cell": job.cell,
            "eps": job.eps,
            "checkpoint": display_path(job.checkpoint),
            "origin": job.origin,
        }
        results.append(result.model_copy(update=names))
    return results, failures


def _report(
    store: Path,
    results: Sequence[Result],
    failures: Sequence[Failure],
    reporting: Reporting,
    images: Path | None = None,
) -> None:
    """Prints the table of results, writes it to the files that are named, and judges it by the gates.

    Raises:
        CellsFailed: A cell failed, or a row cannot be judged.
        GateFailed: A row breaks a gate.
    """
    from robustbench_cli.benchmarks.audit.row_groups import flags_of_groups
    from robustbench_cli.benchmarks.reports.rows import failed_rows, rows
    from robustbench_cli.benchmarks.store.store import Store
    from robustbench_cli.benchmarks.store.together import read_together

    for failure in failures if console.settings.verbose else ():
        console.details(failure.traceback)
    lines = list(map(failure_line, failures))
    if not results and reporting.needs_rows:
        raise CellsFailed(lines, resumable=True)

    damaged: list[str] = []

    def collect(error: UserError) -> None:
        damaged.append(str(error))

    stored = Store(store)
    read = partial(read_together, store_of=lambda _: stored)
    table = rows(results, read, flags_of_groups([store], damaged=collect))
    if not reporting.gates.needs_findings:
        # Figures stand without the findings of audits.
        for line in damaged:
            console.warn(line)
        damaged.clear()
    errors = [failure.error for failure in failures]
    judged = reporting.gates.judged(
        table,
        unfinished=Unfinished([*damaged, *lines], failed=failed_rows(failures), errors=errors, damaged=damaged),
        # The flags have named the damaged files.
        audits=partial(audited_verdicts, [store], damaged=lambda _: None),
    )
    show(
        judged,
        reporting,
        partial(page_content, stores=[store], results=results, read=read, images=images, missing=lines),
    )
    judged.finish()
