"""The road of every command that attacks: plan, train, expand, run, report."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from robustbench_cli.cli import console, tables
from robustbench_cli.cli.exit_codes import CellsFailed
from robustbench_cli.cli.options import warn_of_fewer_images
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.execution.job import Job, JobOptions
    from robustbench_cli.benchmarks.store.store import Failure, RequestedCell, Result
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.plan import CacheFor, Plan, PlannedModel
    from robustbench_cli.benchmarks.training.model_cache import ModelCache
    from robustbench_cli.benchmarks.training.train import Training
    from robustbench_cli.cli.options import Common
    from robustbench_cli.defenses.base.training.trainer import TrainingProgress

__all__ = [
    "Engine",
    "cache_for",
    "describe_cell",
    "duration",
    "failure_line",
    "job_options",
    "missing_line",
    "note_other_norms",
    "raise_failures",
    "run_suite",
    "warn_of_small_datasets",
    "warn_of_unused_recipe",
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
    select: Callable[[list[Job]], list[Job]] = lambda jobs: jobs,
    save_images: Path | None = None,
    output: Path | None = None,
) -> None:
    """Runs every cell of a suite that the store does not have, and reports all of them.

    Args:
        common: The options of the command.
        config: The suite.
        devices: A device for each training process; none trains in this process.
        engine: Runs the jobs; this process where not given.
        select: Chooses the jobs to run.
        save_images: The folder for the adversarial images.
        output: The file for the table.

    Raises:
        CellsFailed: A cell failed.
    """
    from robustbench_cli.benchmarks.execution.engines import local
    from robustbench_cli.benchmarks.suites.plan import plan

    if output is not None:
        tables.require_writable_table(output)
    with console.progress() as progress:
        planned = plan(config, cache_for=cache_for(common, progress), seed=common.seed)
        _require_writable(common.store, save_images)
        note_other_norms(planned)
        warn_of_unused_recipe(config, planned.models)
        _train(common, planned, devices)
        jobs = planned.jobs(job_options(common, save_images))
        selected = select(jobs)
        _request(jobs, common.store)
        missing = _missing(selected, common.store)
        shown = _JobProgress(progress, missing)
        (engine or local.run)(missing, finished=shown.finished, progress=shown.progress)
    results, failures = _results(common, selected, shown)
    warn_of_small_datasets(config, {job.cell.dataset: job.cell.n for job in jobs})
    _warn_of_chance(planned, results)
    _report(common.store, results, failures, output)
    raise_failures(failures)


def job_options(common: Common, images: Path | None = None) -> JobOptions:
    """Where and how the jobs of a command run.

    Args:
        common: The options of the command.
        images: The folder for the adversarial images.
    """
    from robustbench_cli.benchmarks.execution.job import JobOptions

    return JobOptions(
        store=common.store,
        images=images,
        data_dir=common.data_dir,
        device=str(common.torch_device()),
        batch_size=common.batch_size,
    )


def cache_for(common: Common, progress: console.Progress) -> CacheFor:
    """Gives model caches whose trainings are shown as progress bars, or as one line per network.

    Args:
        common: The options of the command.
        progress: Where trainings are shown.
    """
    from robustbench_cli.benchmarks.training.model_cache import ModelCache

    shown = _TrainingProgress(progress)

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


class _TrainingProgress:
    """Shows the epochs of trainings.

    Args:
        progress: Where they are shown.
    """

    def __init__(self, progress: console.Progress) -> None:
        self._progress = progress
        self._bars: dict[str, console.Bar] = {}

    def __call__(self, state: TrainingProgress) -> None:
        """Called after each epoch."""
        if state.name not in self._bars:
            self._bars[state.name] = self._progress.add(state.name, total=state.epochs)
        self._bars[state.name].update(completed=state.epoch)
        if state.epoch == state.epochs:
            self._bars.pop(state.name).remove()
            note = f"; {state.note}" if state.note else ""
            self._progress.finished(
                f"{state.name}: {state.epochs} epochs, loss {state.loss:.4f}, {state.seconds:.1f} s{note}"
            )


def _train(common: Common, planned: Plan, devices: Sequence[str]) -> None:
    """Trains what the cache does not have, in several processes where there are several devices."""
    trainings = planned.trainings
    if len(trainings) > 1:
        console.note(f"{len(trainings)} models to train")
    if trainings and devices:
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
    from robustbench_cli.benchmarks.store.store import RequestedCell, Store
    from robustbench_cli.core.atomic_write import display_path

    Store(store).request(
        RequestedCell(cell=job.cell, eps=job.eps, checkpoint=display_path(job.checkpoint)) for job in jobs
    )


def _missing(jobs: Sequence[Job], store: Path) -> list[Job]:
    """The jobs whose results the store does not have."""
    from robustbench_cli.benchmarks.execution.worker import is_done

    missing = [job for job in jobs if not is_done(job)]
    if len(missing) < len(jobs):
        console.note(f"{len(jobs) - len(missing)}/{len(jobs)} cells cached in {store}")
    return missing


class _JobProgress:
    """Shows how far jobs are, and collects their results and failures.

    Args:
        progress: Where they are shown.
        jobs: All jobs that run.
    """

    def __init__(self, progress: console.Progress, jobs: Sequence[Job]) -> None:
        self.results: dict[str, Result] = {}
        self.failures: list[Failure] = []
        self._progress = progress
        self._cells = progress.add("cells", total=len(jobs)) if jobs else None
        self._running: dict[str, console.Bar] = {}
        self._pace = _Pace(jobs)

    def progress(self, job: Job, done: int) -> None:
        """Shows how many images of a running job are done."""
        if job.cell.id not in self._running:
            self._running[job.cell.id] = self._progress.add(describe_cell(job), total=job.cell.n)
        self._running[job.cell.id].update(completed=done)

    def finished(self, job: Job, outcome: Result | Failure) -> None:
        """Shows the result or failure of a job."""
        from robustbench_cli.benchmarks.store.store import Failure

        if job.cell.id in self._running:
            self._running.pop(job.cell.id).remove()
        self._pace.finished(job, outcome)
        if self._cells is not None:
            self._cells.advance()
            self._cells.update(text=f"cells, {self._pace.rate:,.0f} passes/s")
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
        else:
            self.results[job.cell.id] = outcome
        self._progress.finished(f"{describe_cell(job)}: {_describe_outcome(outcome)}{self._pace}")


def _describe_outcome(outcome: Result | Failure) -> str:
    """The result or failure of a job in a few words."""
    from robustbench_cli.benchmarks.store.store import Failure

    if isinstance(outcome, Failure):
        return f"failed: {outcome.error}"
    if outcome.was_skipped:
        return "skipped: no earlier attack had masked gradients, or another attack broke through"
    summary = outcome.summary
    rate = (outcome.forwards + outcome.backwards) / max(outcome.seconds, 1e-3)
    return (
        f"clean {summary['clean_accuracy']:.3f}, robust {summary['robust_accuracy']:.3f}, {outcome.seconds:.1f} s, "
        f"{rate:,.0f} passes/s"
    )


def _results(common: Common, jobs: Sequence[Job], shown: _JobProgress) -> tuple[list[Result], list[Failure]]:
    """The results of jobs, computed now or stored before, in their order; and the failures."""
    from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages
    from robustbench_cli.benchmarks.store.store import Failure, Store

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
            results.append(shown.results.get(job.cell.id) or store.result(job.cell.id))
        except UserError as error:
            # A damaged result must not hide the others.
            failures.append(Failure(cell=job.cell, eps=job.eps, error=str(error)))
    return results, failures


def note_other_norms(planned: Plan) -> None:
    """Notes the attacks that run in another norm than the user's, where the user's radii mean nothing.

    Args:
        planned: The plan; nothing is noted where the user gave neither a norm nor radii.
    """
    if not (planned.config.norm or planned.config.eps):
        return
    pairs = {(attack.spec.name, suite.norm): attack for suite, _ in planned.suites for attack in suite.attacks}
    for (name, norm), attack in pairs.items():
        if attack.minimal_norm and norm not in attack.norms:
            console.note(f"{name} does not support {norm}: it runs in {attack.norms[0]}, at any distance")


def warn_of_unused_recipe(config: SuiteConfig, models: Sequence[PlannedModel]) -> None:
    """Warns a user who sets options of the training where nothing is trained.

    Args:
        config: The suite.
        models: Its models.
    """
    if any(model.training is not None and model.training.learns_after(None) for model in models):
        return
    unused = models[0].base.path if models and models[0].base is not None else "the model"
    for key in sorted({key for recipe in config.train for key in recipe}):
        option = "--epochs" if key == "epochs" else f"--set train.{key}"
        location = config.prefix("train")
        name = f"{location}{key}" if location else option
        console.warn(
            f"{name} changes nothing: {unused} is used as it is, and nothing is trained (name a --defense that trains, or "
            "leave it out)"
        )


def warn_of_small_datasets(config: SuiteConfig, used: dict[str, int]) -> None:
    """Warns a user who asked for more images than a data set has.

    Args:
        config: The suite.
        used: The number of images used, by data set.
    """
    wanted = max(config.n or (0,))
    for dataset, n in used.items():
        warn_of_fewer_images(wanted, n, dataset, location=config.prefix("n"))


class _Pace:
    """How fast cells are computed, and how long the rest will take: as long as cells of the same attack took.

    As text, the end of a line: the number of cells done and the time left.

    Args:
        jobs: All jobs that run.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._total = len(jobs)
        self._left = Counter(job.cell.attack.name for job in jobs)
        self._done: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._started = self._latest = time.monotonic()
        self._passes = 0

    def finished(self, job: Job, outcome: Result | Failure) -> None:
        """Counts a job that has ended."""
        # A failure has no count of passes.
        self._passes += getattr(outcome, "forwards", 0) + getattr(outcome, "backwards", 0)
        now = time.monotonic()
        name = job.cell.attack.name
        self._left[name] -= 1
        self._done[name] += 1
        # Where several jobs run at once, each counts for its share of the time.
        self._seconds[name] += now - self._latest
        self._latest = now

    @property
    def rate(self) -> float:
        """Passes per second, of all processes together."""
        return self._passes / max(self._latest - self._started, 1e-3)

    def __str__(self) -> str:
        done = self._done.total()
        average = (self._latest - self._started) / max(done, 1)
        seconds = sum(
            count * (self._seconds[name] / self._done[name] if self._done[name] else average)
            for name, count in self._left.items()
        )
        left = f", about {duration(seconds)} left" if done < self._total else ""
        return f"; {done} of {self._total}{left}"


def duration(seconds: float) -> str:
    """A time in its two largest units: ``2 h 5 min``.

    Args:
        seconds: At least 0.
    """
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def _warn_of_chance(planned: Plan, results: Sequence[Result]) -> None:
    """Warns of models that classify clean images no better than chance: their robustness means nothing."""
    for model in {
        planned_model.defended().identity: planned_model.defended() for planned_model in planned.models
    }.values():
        of_model = [result for result in results if result.cell.checkpoint == model.identity]
        clean = of_model[0].summary["clean_accuracy"] if of_model else None
        if clean is not None and clean <= 1.5 / model.classes:
            console.warn(
                f"{model.model} with {model.defense if model.defenses else 'no defense'} classifies clean images no better "
                f"than chance ({model.classes} classes): train it longer, or check its data set and normalization"
            )


def describe_cell(job: Job) -> str:
    """A cell in a few words, for progress lines.

    Args:
        job: The cell's job.
    """
    cell = job.cell
    radius = f" eps {job.eps}" if job.eps else ""
    eot = f" eot {cell.eot}" if cell.eot != 1 else ""
    seed = f" seed {cell.seed}" if cell.seed else ""
    return f"{cell.defense} {cell.attack_label} {cell.norm}{radius}{eot}{seed}"


def _report(store: Path, results: Sequence[Result], failures: Sequence[Failure], output: Path | None) -> None:
    """Prints the table of results, and writes it to a file where one is named."""
    from robustbench_cli.benchmarks.reports.rows import rows
    from robustbench_cli.benchmarks.store.store import Store

    if not results:
        raise_failures(failures)
    stored = Store(store)
    table = rows((result, partial(stored.outcomes, result.cell.id)) for result in results)
    tables.print_and_write(table, tables.for_terminal(table), output)


def failure_line(failure: Failure) -> str:
    """A failed cell in one line.

    Args:
        failure: The failure.
    """
    cell = failure.cell
    return f"cell {cell.id} ({cell.defense} {cell.attack_label}) failed: {failure.error}"


def missing_line(requested: RequestedCell) -> str:
    """A requested cell without a result, in one line.

    Args:
        requested: The cell.
    """
    cell = requested.cell
    radius = f" eps {requested.eps}" if requested.eps else ""
    seed = f" seed {cell.seed}" if cell.seed else ""
    return f"cell {cell.id} ({cell.dataset} {cell.model} {cell.defense} {cell.attack_label} {cell.norm}{radius}{seed}) is missing"


def raise_failures(failures: Sequence[Failure]) -> None:
    """Ends the command with exit code 3 if cells failed.

    Args:
        failures: The failed cells.

    Raises:
        CellsFailed: There is a failure.
    """
    if not failures:
        return
    if console.settings.verbose:
        for failure in failures:
            console.details(failure.traceback)
    raise CellsFailed([failure_line(failure) for failure in failures])
