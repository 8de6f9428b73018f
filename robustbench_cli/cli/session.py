"""What the computing commands share: trains what is missing, runs jobs, shows both, and tells of failures."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from robustbench_cli.cli import console, tables
from robustbench_cli.cli.exit_codes import CellsFailed
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.attacks.base.norm import Norm
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.execution.job import Job
    from robustbench_cli.benchmarks.store.store import Failure, RequestedCell, Result
    from robustbench_cli.benchmarks.suites.plan import Part
    from robustbench_cli.benchmarks.suites.suite import AttackChoice
    from robustbench_cli.benchmarks.training.model_cache import ModelCache
    from robustbench_cli.benchmarks.training.train import Training
    from robustbench_cli.cli.options import Common
    from robustbench_cli.defenses.base.training.trainer import TrainingProgress

__all__ = [
    "Engine",
    "attack_all",
    "describe_cell",
    "duration",
    "failure_line",
    "missing_line",
    "model_cache",
    "note_other_norms",
    "raise_failures",
    "report_results",
    "train_in_processes",
]


class Engine(Protocol):
    """Runs jobs somewhere; see :mod:`robustbench_cli.benchmarks.execution.engines`."""

    def __call__(
        self,
        jobs: Iterable[Job],
        *,
        finished: Callable[[Job, Result | Failure], None],
        progress: Callable[[Job, int], None],
    ) -> None:
        """Runs jobs; tells of each that has ended, and of the images that are done."""


def model_cache(
    common: Common, dataset: str, recipe: dict[str, Any], shown: console.Progress, *, seed: int | None = None
) -> ModelCache:
    """A :class:`ModelCache` whose trainings are shown as bars, or as a line a network.

    Args:
        common: The options of the command.
        dataset: As the user named it.
        recipe: What the user set of the training recipe.
        shown: Where progress is shown.
        seed: Of trainings; the command's own where not given.
    """
    from robustbench_cli.benchmarks.training.model_cache import ModelCache

    bars: dict[str, console.Task] = {}

    def begin(label: str, path: Path) -> None:
        console.note(f"training {label}; kept in {path}")

    def progress(now: TrainingProgress) -> None:
        if now.name not in bars:
            bars[now.name] = shown.add(now.name, total=now.epochs)
        bars[now.name].update(completed=now.epoch)
        if now.epoch == now.epochs:
            bars.pop(now.name).remove()
            note = f"; {now.note}" if now.note else ""
            shown.finished(f"{now.name}: {now.epochs} epochs, loss {now.loss:.4f}, {now.seconds:.1f} s{note}")

    return ModelCache(
        dataset=dataset,
        data_dir=common.data_dir,
        device=common.torch_device(),
        seed=common.seed if seed is None else seed,
        recipe=recipe,
        begin=begin,
        wait=lambda label: console.note(f"waiting for another process that trains {label}"),
        progress=progress,
    )


def train_in_processes(common: Common, trainings: Sequence[Training], devices: Sequence[str]) -> None:
    """Trains several models side by side, each once, for the user's cache folder.

    One that cannot be trained is left for whoever asks for the model, and is told why.

    Args:
        common: The options of the command.
        trainings: What to train.
        devices: A torch device for each process.
    """
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_train, args=(common.on(device), list(trainings), console.settings.quiet), daemon=True)
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


def _train(common: Common, trainings: Sequence[Training], quiet: bool) -> None:
    """Trains in a process of its own what no other one is at."""
    # Ctrl-C reaches every process of the terminal; what is to become of this one, its parent decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    console.settings.quiet = quiet
    for training in trainings:
        with suppress(UserError):
            shown = console.Progress(None, about=training.label)
            model_cache(common, training.dataset, {}, shown).train_if_free(training)


def attack_all(
    common: Common,
    parts: Sequence[Part],
    shown: console.Progress,
    *,
    save_images: Path | None = None,
    chosen: Callable[[list[Job]], list[Job]] = lambda jobs: jobs,
    engine: Engine | None = None,
) -> tuple[list[Result], list[Failure]]:
    """Runs every cell of suites that the store does not have yet.

    Args:
        common: The options of the command.
        parts: What to run.
        shown: Where progress is shown.
        save_images: The folder where the adversarial images are to be saved.
        chosen: Of all jobs, those that are asked for.
        engine: Runs the jobs; in this process where not given.

    Returns:
        The results in the order of the suites, and the failures.
    """
    from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages
    from robustbench_cli.benchmarks.execution.engines import local
    from robustbench_cli.benchmarks.execution.worker import is_done
    from robustbench_cli.benchmarks.store.store import Failure, RequestedCell, Store
    from robustbench_cli.benchmarks.suites.plan import jobs_of
    from robustbench_cli.core.atomic_write import display_path, ensure_writable

    store = Store(common.store)
    store.ensure_writable()
    if save_images is not None:
        ensure_writable(save_images)
    every = jobs_of(
        parts,
        store=common.store,
        images=save_images,
        data_dir=common.data_dir,
        device=str(common.torch_device()),
        batch_size=common.batch_size,
    )
    jobs = chosen(every)
    # Also the cells of others' shares: the report of a store in which one share is missing is not whole.
    store.request(RequestedCell(cell=job.cell, eps=job.eps, checkpoint=display_path(job.checkpoint)) for job in every)
    todo = [job for job in jobs if not is_done(job)]
    if len(todo) < len(jobs):
        console.note(f"{len(jobs) - len(todo)} of {len(jobs)} cells are in {common.store} already")
    cells = shown.add("cells", total=len(todo)) if todo else None
    running: dict[str, console.Task] = {}
    left = _Pace(todo)
    failures: list[Failure] = []
    computed: dict[str, Result] = {}

    def finished(job: Job, outcome: Result | Failure) -> None:
        if job.cell.id in running:
            running.pop(job.cell.id).remove()
        left.finished(job, outcome)
        if cells is not None:
            cells.advance()
            cells.update(text=f"cells, {left.rate:,.0f} passes/s")
        if isinstance(outcome, Failure):
            failures.append(outcome)
            shown.finished(f"{describe_cell(job)}: failed: {outcome.error}{left}")
            return
        computed[job.cell.id] = outcome
        if outcome.was_skipped:
            shown.finished(
                f"{describe_cell(job)}: not needed: no attack before it was blinded, or another broke through{left}"
            )
            return
        summary = outcome.summary
        rate = (outcome.forwards + outcome.backwards) / max(outcome.seconds, 1e-3)
        shown.finished(
            f"{describe_cell(job)}: clean {summary['clean_accuracy']:.3f}, robust {summary['robust_accuracy']:.3f}, "
            f"{outcome.seconds:.1f} s, {rate:,.0f} passes/s{left}"
        )

    def progress(job: Job, done: int) -> None:
        if job.cell.id not in running:
            running[job.cell.id] = shown.add(describe_cell(job), total=job.cell.n)
        running[job.cell.id].update(completed=done)

    (engine or local.run)(todo, finished=finished, progress=progress)
    failed = {failure.cell.id for failure in failures}
    if save_images is not None:
        for job in jobs:
            if job.cell.id not in failed:
                accuracy = SavedImages.read(save_images, job.cell.id).robust_accuracy
                console.note(f"{save_images / job.cell.id}.npz: {describe_cell(job)}: robust {accuracy:.3f} in 8 bits")
    results = []
    for job in jobs:
        if job.cell.id in failed:
            continue
        try:
            results.append(computed.get(job.cell.id) or store.result(job.cell.id))
        except UserError as error:
            # One that was damaged must not hide the others.
            failures.append(Failure(cell=job.cell, eps=job.eps, error=str(error)))
    defended_models = {defended.identity: defended for part in parts for defended in part.defended_models()}
    _warn_of_chance(results, list(defended_models.values()))
    return results, failures


def note_other_norms(choices: Iterable[AttackChoice], norm: Norm) -> None:
    """Tells that the norm and the radius of others are not those of the attacks that do not know the norm."""
    for choice in choices:
        if choice.minimal_norm and norm not in choice.norms:
            console.note(f"{choice.spec.name} does not know {norm}: it looks in {choice.norms[0]}, at any distance")


class _Pace:
    """How fast cells are computed, and how long those that are left will take: as the same attack's took, where any is done.

    As text, the end of a line: how many are done, and that time.

    Args:
        jobs: All cells.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._all = len(jobs)
        self._left = Counter(job.cell.attack.name for job in jobs)
        self._done: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._began = self._latest = time.monotonic()
        self._passes = 0

    def finished(self, job: Job, outcome: Result | Failure) -> None:
        """One is done."""
        # Of a failure nobody knows.
        self._passes += getattr(outcome, "forwards", 0) + getattr(outcome, "backwards", 0)
        now = time.monotonic()
        name = job.cell.attack.name
        self._left[name] -= 1
        self._done[name] += 1
        # Of several that run at once, each counts for its share.
        self._seconds[name] += now - self._latest
        self._latest = now

    @property
    def rate(self) -> float:
        """Passes a second, of all processes together."""
        return self._passes / max(self._latest - self._began, 1e-3)

    def __str__(self) -> str:
        done = self._done.total()
        usual = (self._latest - self._began) / max(done, 1)
        seconds = sum(
            count * (self._seconds[name] / self._done[name] if self._done[name] else usual)
            for name, count in self._left.items()
        )
        about = f", about {duration(seconds)} left" if done < self._all else ""
        return f"; {done} of {self._all}{about}"


def duration(seconds: float) -> str:
    """A time in the two units that say most: ``2 h 5 min``."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def _warn_of_chance(results: Sequence[Result], defended_models: Sequence[DefendedModel]) -> None:
    """Tells of models that do no better on clean images than guessing does, whose robustness says nothing."""
    for defended in defended_models:
        own = [result for result in results if result.cell.checkpoint == defended.identity]
        clean = own[0].summary["clean_accuracy"] if own else None
        if clean is not None and clean <= 1.5 / defended.classes:
            console.warn(
                f"{defended.model} with {defended.defense if defended.defenses else 'no defense'} does no better on clean images "
                f"than guessing one of {defended.classes} classes: train it longer, or check its data set and normalisation"
            )


def describe_cell(job: Job) -> str:
    """A cell in a few words, for lines of progress."""
    cell = job.cell
    radius = f" eps {job.eps}" if job.eps else ""
    eot = f" eot {cell.eot}" if cell.eot != 1 else ""
    seed = f" seed {cell.seed}" if cell.seed else ""
    return f"{cell.defense} {cell.attack_label} {cell.norm}{radius}{eot}{seed}"


def report_results(
    store: Path, results: Sequence[Result], failures: Sequence[Failure], output: Path | None = None
) -> None:
    """Prints the table of results of one store, and writes it to a file where one is named.

    Raises:
        CellsFailed: There is a failure and no result.
    """
    from robustbench_cli.benchmarks.reports.rows import rows
    from robustbench_cli.benchmarks.store.store import Store

    if not results:
        raise_failures(failures)
    stored = Store(store)
    table = rows((result, partial(stored.outcomes, result.cell.id)) for result in results)
    tables.report(table, tables.for_terminal(table), output)


def failure_line(failure: Failure) -> str:
    """A failed cell in one line."""
    cell = failure.cell
    return f"cell {cell.id} ({cell.defense} {cell.attack_label}) failed: {failure.error}"


def missing_line(asked: RequestedCell) -> str:
    """A cell that was asked for and is not there, in one line."""
    cell = asked.cell
    radius = f" eps {asked.eps}" if asked.eps else ""
    seed = f" seed {cell.seed}" if cell.seed else ""
    return f"cell {cell.id} ({cell.dataset} {cell.model} {cell.defense} {cell.attack_label} {cell.norm}{radius}{seed}) is missing"


def raise_failures(failures: Sequence[Failure]) -> None:
    """Ends the command with exit code 3 where cells failed.

    Raises:
        CellsFailed: There is a failure.
    """
    if not failures:
        return
    if console.settings.verbose:
        for failure in failures:
            console.details(failure.traceback)
    raise CellsFailed([failure_line(failure) for failure in failures])
