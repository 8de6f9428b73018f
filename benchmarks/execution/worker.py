"""Computes one job and publishes its result: the one road from a cell to the store."""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.threat import distance, per_image
from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.benchmarks.checkpoints.defended_model import load_defended_model, load_surrogates
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import Slice, first_examples
from robustbench_cli.benchmarks.devices import current, keep_freed_memory, limit_threads
from robustbench_cli.benchmarks.evaluation.context import RunContext
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate, predict
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes, summarize, worst_case
from robustbench_cli.benchmarks.evaluation.partial_results import PartialResults
from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages, levels, rounded
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS, SEARCHES, Failure, Result, Store
from robustbench_cli.benchmarks.store.worst_case_flags import Run, blinded
from robustbench_cli.core.atomic_write import display_path
from robustbench_cli.core.errors import UserError, is_out_of_memory, one_line
from robustbench_cli.core.isolation import isolate

__all__ = ["again", "compute_if_free", "is_done", "lease_name", "work", "work_if_free"]

_GOES_FIRST = ", which goes first, failed: "


def work(job: Job, *, progress: Callable[[int], None] = lambda _: None) -> Result | Failure:
    """Runs a job, or finds its result in the store, and publishes it.

    A job that cannot be finished is published as a failure with its reason in one line.

    Args:
        job: What to run.
        progress: Called with the number of images done.

    Raises:
        UserError: The store cannot be read or written.
    """
    return _computed(job, progress)()


def work_if_free(job: Job, *, progress: Callable[[int], None] = lambda _: None) -> Result | Failure | None:
    """Does :func:`work` unless a living process is at it already, here or on another machine that shares the store.

    Args:
        job: What to run.
        progress: Called with the number of images done, 0 as it begins.

    Returns:
        ``None`` where another process is at it.

    Raises:
        UserError: The store cannot be read or written.
    """
    publish = compute_if_free(job, progress=progress)
    return None if publish is None else publish()


def compute_if_free(
    job: Job, *, progress: Callable[[int], None] = lambda _: None
) -> Callable[[], Result | Failure] | None:
    """The first part of :func:`work_if_free`, which takes a processor; it returns the second, which waits for a disk.

    Args:
        job: What to run.
        progress: Called with the number of images done, 0 as it begins.

    Returns:
        What publishes the result and gives it back, and is to be called soon, for until then nobody else can have the
        job; ``None`` where another process is at it.

    Raises:
        UserError: The store cannot be read or written.
    """
    with ExitStack() as claim:
        if not claim.enter_context(Leases(job.store).hold(lease_name(job))):
            return None
        progress(0)
        publish = _computed(job, progress)
        held = claim.pop_all()

    def published() -> Result | Failure:
        with held:
            return publish()

    return published


def _computed(job: Job, progress: Callable[[int], None]) -> Callable[[], Result | Failure]:
    """Runs a job, or finds its result in the store; what it returns publishes what came of it."""
    store = Store(job.store)
    if is_done(job):
        return partial(store.result, job.cell.id)
    try:
        with current(torch.device(job.device)):
            computed = _compute(job, progress)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the other jobs go on
        failure = Failure(cell=job.cell, eps=job.eps, error=_reason(error), traceback=traceback.format_exc())
        return partial(_publish_failure, store, failure)
    # With its images saved a cell is done when it is stored.
    with current(torch.device(job.device)):
        _save_images(job, computed)
    return partial(_publish, job, store, computed)


def _publish_failure(store: Store, failure: Failure) -> Failure:
    store.publish_failure(failure)
    return failure


def lease_name(job: Job) -> str:
    """The name under which a process claims a job: a minimal-norm attack searches once for all radii."""
    kind: type[Attack] = attacks.load(job.cell.attack.name)
    return (_search(job) if kind.minimal_norm else job).cell.id


def again(jobs: Sequence[Job]) -> list[Job]:
    """The same jobs, to be computed again where the store has them, as is what a minimal-norm attack found.

    What is there stays until the new result takes its place.
    """
    renewed: dict[str, Job] = {}
    for job in jobs:
        search = _search(job).cell.id
        marks = {
            job.cell.id: Store(job.store).result_hash(job.cell.id),
            search: Store(job.store / SEARCHES).result_hash(search),
        }
        renewed[job.cell.id] = job.model_copy(
            update={
                "replaces": {cell: mark for cell, mark in marks.items() if mark is not None},
                "before": job.before and renewed.get(job.before.cell.id, job.before),
            }
        )
    return list(renewed.values())


@dataclass(frozen=True, kw_only=True)
class _Computed:
    """What a run gives, before it is a result of a cell."""

    outcomes: Outcomes
    flags: tuple[str, ...]
    forwards: int
    backwards: int
    seconds: float
    device: str
    perturbed: Tensor | None = None


def is_done(job: Job) -> bool:
    """Whether the store has the cell, and its images are where they are to be saved."""
    return _is_in(Store(job.store), job) and _has_images(job)


def _is_in(store: Store, job: Job) -> bool:
    if job.cell.id in job.replaces:
        return store.result_hash(job.cell.id) not in {None, job.replaces[job.cell.id]}
    return job.cell in store


def _has_images(job: Job) -> bool:
    return job.images is None or (job.images / f"{job.cell.id}.npz").is_file()


def _compute(job: Job, progress: Callable[[int], None]) -> _Computed:
    if job.cell.only_if is not None and not _condition_holds(job):
        return _skipped(job)
    attack = job.cell.attack.build(attacks, **load_surrogates(job.cell.attack, job.loading.get("named", ())))
    return (_search_once if attack.minimal_norm else _run)(job, attack, progress)


def _condition_holds(job: Job) -> bool:
    """Whether the attacks that a job goes on from, at its radius, were blinded: the one condition there is."""
    runs: list[Run] = []
    earlier = job.before
    while earlier is not None and earlier.cell.eps == job.cell.eps:
        outcomes = _outcomes_of(earlier)
        runs.append(Run(Store(job.store).result(earlier.cell.id), outcomes))
        earlier = earlier.before
    return bool(runs) and blinded(runs, worst_case([run.outcomes for run in runs]))


def _skipped(job: Job) -> _Computed:
    """What a job whose condition does not hold gives: the outcomes, and the images, of the one that it goes on from."""
    before = job.before
    assert before is not None
    saved = None if job.images is None else SavedImages.read(job.images, before.cell.id).perturbed_levels / 255
    result, outcomes = Store(job.store).result(before.cell.id), _outcomes_of(before)
    return _Computed(
        outcomes=outcomes, flags=(), forwards=0, backwards=0, seconds=0.0, device=result.device, perturbed=saved
    )


def _search_once(job: Job, attack: Attack, progress: Callable[[int], None]) -> _Computed:
    """Reads what a minimal-norm attack found; it runs once for all radii."""
    search = _search(job)
    store = Store(job.store / SEARCHES)
    cell = search.cell
    if not _is_in(store, search) or not _has_images(search):
        computed = _run(search, attack, progress)
        _save_images(search, computed)
        _publish(search, store, computed)
    found = store.result(cell.id)
    outcomes = store.outcomes(cell.id)
    return _Computed(
        outcomes=outcomes if job.cell.eps is None else outcomes.within(job.cell.eps),
        flags=found.flags,
        forwards=found.forwards,
        backwards=found.backwards,
        seconds=found.seconds,
        device=found.device,
    )


def _search(job: Job) -> Job:
    """The job of a minimal-norm attack at any distance."""
    return job.model_copy(update={"cell": job.cell.model_copy(update={"eps": None}), "eps": ""})


def _run(job: Job, attack: Attack, progress: Callable[[int], None]) -> _Computed:
    keep_freed_memory()
    cell, device = job.cell, torch.device(job.device)
    examples = _examples(cell.dataset, job.data_dir, cell.n)
    limit_threads(tuple(examples.images.shape[1:]))
    if examples.sha256 != cell.data:
        raise UserError(f"the images of {cell.dataset} have changed since the command began: give the command again")
    evaluation = evaluate(
        _model(job.checkpoint, json.dumps(job.loading), cell.checkpoint),
        examples.images,
        examples.labels,
        attack=attack,
        options=cell.evaluation_options,
        context=RunContext(
            device=device,
            batch_size=job.batch_size,
            earlier=None if job.before is None else _outcomes_of(job.before),
            partial_results=_kept(job, attack),
            progress=progress,
        ),
    )
    return _Computed(
        outcomes=evaluation.outcomes,
        flags=evaluation.flags,
        forwards=evaluation.forwards,
        backwards=evaluation.backwards,
        seconds=evaluation.seconds,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        perturbed=evaluation.perturbed,
    )


def _kept(job: Job, attack: Attack) -> PartialResults:
    """Where a run keeps what it has found so far, in the store that its result goes to."""
    store = job.store / SEARCHES if attack.minimal_norm else job.store
    return PartialResults(store / PARTIAL_RESULTS / job.cell.id, images=job.images is not None)


def _save_images(job: Job, computed: _Computed) -> None:
    """Saves the images of a job where that is asked for."""
    cell, folder = job.cell, job.images
    if folder is None:
        return
    examples = _examples(cell.dataset, job.data_dir, cell.n)
    clean = levels(examples.images)
    perturbed = _images_to_save(job, folder, computed, examples.images, clean)
    predictions = predict(
        _model(job.checkpoint, json.dumps(job.loading), cell.checkpoint),
        perturbed / 255,
        repeats=cell.repeats,
        seed=cell.seed,
        device=job.device,
        batch_size=job.batch_size,
    )
    SavedImages.of(clean, perturbed, examples.labels, predictions).write(folder, cell.id)


def _images_to_save(job: Job, folder: Path, computed: _Computed, images: Tensor, clean: Tensor) -> Tensor:
    """What the attack, or an earlier one that left it nothing to do, made of each image, in 256 levels inside the ball.

    Args:
        job: Whose images they are.
        folder: Where those of earlier jobs are.
        computed: Has no images where a minimal-norm attack searched once for all radii.
        images: ``(N, C, H, W)`` in [0, 1].
        clean: The same in 256 levels.

    Returns:
        ``(N, C, H, W)`` uint8.
    """
    cell = job.cell
    if computed.perturbed is not None:
        perturbed = rounded(computed.perturbed, images, norm=cell.norm, eps=cell.eps)
    else:
        perturbed = SavedImages.read(folder, _search(job).cell.id).perturbed_levels
    if cell.eps is not None:
        outside = distance(perturbed.double() / 255, clean.double() / 255, cell.norm) > cell.eps + 1e-9
        perturbed = torch.where(per_image(outside, clean), clean, perturbed)
    if job.before is not None:
        earlier = SavedImages.read(folder, job.before.cell.id).perturbed_levels
        fell = torch.from_numpy(_outcomes_of(job.before).broken())
        perturbed = torch.where(per_image(fell, clean), earlier, perturbed)
    return perturbed


def _outcomes_of(job: Job) -> Outcomes:
    """The outcomes of a job that another one builds on, which is run where nobody has run it yet.

    Raises:
        UserError: It failed.
    """
    done = work(job)
    if isinstance(done, Failure):
        # The first that failed says why: a longer and longer chain would bury it.
        raise UserError(
            done.error
            if _GOES_FIRST in done.error
            else f"the cell {done.cell.id} ({done.cell.attack.label}){_GOES_FIRST}{done.error}"
        )
    return Store(job.store).outcomes(job.cell.id)


def _publish(job: Job, store: Store, computed: _Computed) -> Result:
    content = computed.outcomes.to_bytes()
    summary = summarize(computed.outcomes)
    result = Result(
        cell=job.cell,
        eps=job.eps,
        checkpoint=display_path(job.checkpoint),
        summary={key: None if math.isnan(value) else value for key, value in summary.items()},
        flags=computed.flags,
        forwards=computed.forwards,
        backwards=computed.backwards,
        seconds=computed.seconds,
        device=computed.device,
        versions=versions(),
        outcomes_sha256=hashlib.sha256(content).hexdigest(),
        mean=job.mean,
        std=job.std,
    )
    store.publish(result, content, replacing=job.replaces.get(job.cell.id))
    PartialResults(store.path / PARTIAL_RESULTS / job.cell.id, images=False).remove()
    return store.result(job.cell.id)


@lru_cache(maxsize=2)
def _examples(dataset: str, data_dir: Path | None, n: int) -> Slice:
    return first_examples(load_dataset(dataset, data_dir=data_dir).split("test"), n)


@lru_cache(maxsize=1)
def _model(checkpoint: Path, loading: str, identity: str) -> nn.Module:
    # Not before: what bounds a model by intervals takes none that has hooks.
    return isolate(load_defended_model(checkpoint, json.loads(loading), identity))


def _reason(error: BaseException) -> str:
    told = one_line(error)
    return f"out of memory: give a smaller --batch-size ({told})" if is_out_of_memory(error) else told
