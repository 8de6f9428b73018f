"""What the computing commands share: trains what is missing, runs jobs, shows both, and tells of failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_cli import console
from robustbench_cli.exits import CellsFailed

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_cli.benchmarks.prepare import Preparation
    from robustbench_cli.benchmarks.store import Failure, Result
    from robustbench_cli.benchmarks.subject import Subject
    from robustbench_cli.benchmarks.suite import Job, Suite
    from robustbench_cli.defenses.base.training import TrainingProgress
    from robustbench_cli.options import Common

__all__ = ["attack_all", "failure_line", "preparation", "raise_failures", "table_of"]


def preparation(common: Common, dataset: str, recipe: dict[str, Any], shown: console.Progress) -> Preparation:
    """A :class:`Preparation` whose trainings are shown as bars, or as a line a network."""
    from robustbench_cli.benchmarks.prepare import Preparation

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

    return Preparation(
        dataset=dataset,
        data_dir=common.data_dir,
        device=common.torch_device(),
        seed=common.seed,
        recipe=recipe,
        begin=begin,
        progress=progress,
    )


def attack_all(
    common: Common,
    suite: Suite,
    subjects: Callable[[], Sequence[Subject]],
    shown: console.Progress,
    *,
    save_images: Path | None = None,
) -> tuple[list[Result], list[Failure]]:
    """Runs every cell of a suite that the store does not have yet.

    Args:
        common: The options of the command.
        suite: What to run.
        subjects: Gives the defended models; called when all that can be wrong with the suite has been looked at, since it
            may have to train them.
        shown: Where progress is shown.
        save_images: The folder where the adversarial images are to be saved.

    Returns:
        The results in the order of the suite, and the failures.
    """
    from robustbench_cli.attacks.base.files import ensure_writable
    from robustbench_cli.benchmarks.datasets.base.load import load_dataset
    from robustbench_cli.benchmarks.datasets.base.slice import first_examples
    from robustbench_cli.benchmarks.engines import local
    from robustbench_cli.benchmarks.saved_images import SavedImages
    from robustbench_cli.benchmarks.store import Failure, Store
    from robustbench_cli.benchmarks.suite import expand
    from robustbench_cli.benchmarks.worker import is_done

    dataset = load_dataset(suite.dataset, data_dir=common.data_dir)
    examples = first_examples(dataset.split("test"), suite.n)
    store = Store(common.store)
    store.ensure_writable()
    if save_images is not None:
        ensure_writable(save_images)
    suite.threats(usual_eps=dataset.eps)
    suite.require_fit(examples)
    defended = subjects()
    jobs = expand(
        suite,
        defended,
        examples=examples,
        usual_eps=dataset.eps,
        store=common.store,
        images=save_images,
        data_dir=common.data_dir,
        device=str(common.torch_device()),
        batch_size=common.batch_size,
    )
    todo = [job for job in jobs if not is_done(job)]
    if len(todo) < len(jobs):
        console.note(f"{len(jobs) - len(todo)} of {len(jobs)} cells are in {common.store} already")
    cells = shown.add("cells", total=len(todo)) if todo else None
    images = shown.add("images", total=len(examples)) if todo else None
    failures: list[Failure] = []

    def finished(job: Job, outcome: Result | Failure) -> None:
        if cells is not None:
            cells.advance()
        if isinstance(outcome, Failure):
            failures.append(outcome)
            shown.finished(f"{cell_words(job)}: failed: {outcome.error}")
            return
        summary = outcome.summary
        shown.finished(
            f"{cell_words(job)}: clean {summary['clean_accuracy']:.3f}, robust {summary['robust_accuracy']:.3f}, "
            f"{outcome.seconds:.1f} s"
        )

    def progress(job: Job, done: int) -> None:
        if images is not None:
            images.update(completed=done, text=cell_words(job))

    local.run(todo, finished=finished, progress=progress)
    failed = {failure.cell.id for failure in failures}
    if save_images is not None:
        for job in jobs:
            if job.cell.id not in failed:
                accuracy = SavedImages.read(save_images, job.cell.id).robust_accuracy
                console.note(f"{save_images / job.cell.id}.npz: {cell_words(job)}: robust {accuracy:.3f} in 8 bits")
    results = [store.result(job.cell.id) for job in jobs if job.cell.id not in failed]
    _warn_of_chance(results, defended)
    return results, failures


def _warn_of_chance(results: Sequence[Result], subjects: Sequence[Subject]) -> None:
    """Tells of models that do no better on clean images than guessing does, whose robustness says nothing."""
    for subject in subjects:
        own = [result for result in results if result.cell.checkpoint == subject.identity]
        clean = own[0].summary["clean_accuracy"] if own else None
        if clean is not None and clean <= 1.5 / subject.classes:
            console.warn(
                f"{subject.model} with {subject.defense if subject.defenses else 'no defense'} does no better on clean images "
                f"than guessing one of {subject.classes} classes: train it longer, or check its data set and normalisation"
            )


def cell_words(job: Job) -> str:
    """A cell in a few words, for lines of progress."""
    cell = job.cell
    radius = f" eps {job.eps}" if job.eps else ""
    eot = f" eot {cell.eot}" if cell.eot != 1 else ""
    return f"{cell.defense} {cell.attack_label} {cell.norm}{radius}{eot}"


def table_of(store: Path, results: Sequence[Result]) -> pd.DataFrame:
    """The table of results of one store."""
    from robustbench_cli.benchmarks.rows import rows
    from robustbench_cli.benchmarks.store import Store

    stored = Store(store)
    return rows((result, partial(stored.outcomes, result.cell.id)) for result in results)


def failure_line(failure: Failure) -> str:
    """A failed cell in one line."""
    cell = failure.cell
    return f"cell {cell.id} ({cell.defense} {cell.attack_label}) failed: {failure.error}"


def raise_failures(failures: Sequence[Failure]) -> None:
    """Ends the command with exit code 3 where cells failed.

    Raises:
        CellsFailed: There is a failure.
    """
    if not failures:
        return
    if console.settings.verbose:
        for failure in failures:
            console.note(failure.traceback)
    raise CellsFailed([failure_line(failure) for failure in failures])
