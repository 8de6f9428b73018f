"""Computes one job and publishes its result."""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.library import ForeignAttack
from robustbench_cli.attacks.base.models.freezing import copy_of
from robustbench_cli.attacks.base.models.outside_state import own_outside_state
from robustbench_cli.attacks.base.models.precision import Precision
from robustbench_cli.attacks.base.models.user_code import has_user_code
from robustbench_cli.attacks.base.threat import distance, per_image
from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.benchmarks.checkpoints.defended_model import load_defended_model, load_surrogates
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.corruptions import registry as corruptions
from robustbench_cli.benchmarks.corruptions.base.examples import corrupted_examples
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.devices import current, device_name, keep_freed_memory, limit_threads
from robustbench_cli.benchmarks.evaluation.context import RunContext
from robustbench_cli.benchmarks.evaluation.early_stopping import summarize_row
from robustbench_cli.benchmarks.evaluation.evaluate import attack_free_batches, evaluate, predict
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.partial_results import PartialResults
from robustbench_cli.benchmarks.evaluation.saliency import saliency
from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages, levels, rounded
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.store.records import Failure, Result
from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS, SEARCHES, Store
from robustbench_cli.benchmarks.store.worst_case_flags import blinded
from robustbench_cli.core.atomic_write import display_path
from robustbench_cli.core.errors import UserError, is_out_of_memory, one_line
from robustbench_cli.core.isolation import isolate_passes

__all__ = [
    "compute_if_free",
    "has_search",
    "images_stored",
    "is_done",
    "is_foreign",
    "lease_name",
    "rerun",
    "work",
    "work_if_free",
]

_EARLIER_FAILED = ", which this cell continues, failed"


def work(job: Job, *, progress: Callable[[int], None] = lambda _: None) -> Result | Failure:
    """Computes a job and publishes its result, unless the store has it.

    A job that fails is published as a failure, with its reason in one line.

    Args:
        job: The job.
        progress: Called with the number of images done.

    Raises:
        UserError: The store cannot be read or written.
    """
    return _computed(job, progress)()


def work_if_free(job: Job, *, progress: Callable[[int], None] = lambda _: None) -> Result | Failure | None:
    """Does :func:`work`, unless a living process holds the job's lease, on this machine or another that shares the store.

    Args:
        job: The job.
        progress: Called with the number of images done, first with 0.

    Returns:
        ``None`` if another process holds the lease.

    Raises:
        UserError: The store cannot be read or written.
    """
    publish = compute_if_free(job, progress=progress)
    return None if publish is None else publish()


def compute_if_free(
    job: Job, *, progress: Callable[[int], None] = lambda _: None
) -> Callable[[], Result | Failure] | None:
    """Computes a job if nobody else holds its lease.

    A job that is split is computed by all processes that call this. Each attacks one batch of images after another that
    nobody else holds; the first that finds the results of all batches joins them.

    Args:
        job: The job.
        progress: Called with the number of images done: first with 0, or with those of the stored batches of a split job.

    Returns:
        A function that publishes the result, returns it and gives up the lease; call it soon. ``None`` if another process
        holds the lease, or the leases of the batches that are left.

    Raises:
        UserError: The store cannot be read or written.
    """
    if job.split:
        try:
            if not _batches_are_done(job, progress):
                return None
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in _computed
            return partial(_publish_failure, Store(job.store), _failure(job, error))
    with ExitStack() as lease:
        if not lease.enter_context(Leases(job.store).hold(lease_name(job))):
            return None
        if not job.split:
            progress(0)
        publish = _computed(job, progress)
        held_lease = lease.pop_all()

    def published() -> Result | Failure:
        with held_lease:
            return publish()

    return published


def lease_name(job: Job) -> str:
    """The name of a job's lease. The jobs of a minimal-norm attack share one, because they share its search.

    Args:
        job: The job.
    """
    attack: type[Attack] = attacks.load(job.cell.attack.name)
    return (_search_job(job) if attack.minimal_norm else job).cell.id


def rerun(jobs: Sequence[Job]) -> list[Job]:
    """The same jobs, computed again even if the store has their results, which stay until the new ones replace them.

    Args:
        jobs: The jobs, each after the one that it continues.
    """
    again: dict[str, Job] = {}
    for job in jobs:
        search = _search_job(job).cell.id
        hashes = {
            job.cell.id: Store(job.store).result_hash(job.cell.id),
            search: Store(job.store / SEARCHES).result_hash(search),
        }
        again[job.cell.id] = job.model_copy(
            update={
                "replaces": {cell: content for cell, content in hashes.items() if content is not None},
                "previous": job.previous and again.get(job.previous.cell.id, job.previous),
            }
        )
    return list(again.values())


def is_done(job: Job) -> bool:
    """Whether the store has the cell's result, and the folder of images has its images where they are wanted.

    Args:
        job: The job.
    """
    return _is_stored(Store(job.store), job) and _has_images(job)


def has_search(job: Job) -> bool:
    """Whether the store has the search of a minimal-norm attack, from which a job's result is read without any pass.

    Args:
        job: The job.
    """
    attack: type[Attack] = attacks.load(job.cell.attack.name)
    return attack.minimal_norm and _search_is_done(_search_job(job))


def is_foreign(job: Job) -> bool:
    """Whether the attack of a job is one of another library.

    Args:
        job: The job.
    """
    return issubclass(attacks.load(job.cell.attack.name), ForeignAttack)


def images_stored(job: Job) -> int:
    """The number of images of an unfinished job whose results are stored, by an interrupted or a split computation.

    Args:
        job: The job.
    """
    attack: type[Attack] = attacks.load(job.cell.attack.name)
    return _partial_results(_search_job(job) if attack.minimal_norm else job, attack).number_of_images


def _partial_results(job: Job, attack: Attack | type[Attack]) -> PartialResults:
    """The stored batches of a job, or of a search for the jobs of a minimal-norm attack."""
    store = job.store / SEARCHES if attack.minimal_norm else job.store
    return PartialResults(store / PARTIAL_RESULTS / job.cell.id, images=job.images is not None)


def _is_stored(store: Store, job: Job) -> bool:
    if job.cell.id in job.replaces:
        return store.result_hash(job.cell.id) not in {None, job.replaces[job.cell.id]}
    return job.cell in store


def _has_images(job: Job) -> bool:
    return job.images is None or (job.images / f"{job.cell.id}.npz").is_file()


@dataclass(frozen=True, kw_only=True)
class _Computed:
    """What a job computed, not yet packed into a ``Result``."""

    outcomes: Outcomes
    flags: tuple[str, ...]
    forwards: int
    backwards: int
    seconds: float
    device: str
    precision: Precision | None
    perturbed: Tensor | None = None


def _computed(job: Job, progress: Callable[[int], None]) -> Callable[[], Result | Failure]:
    """Computes a job, or finds its result in the store. Returns a function that publishes it."""
    store = Store(job.store)
    if is_done(job):
        return partial(store.result, job.cell.id)
    try:
        with current(torch.device(job.device)):
            attack = _attack(job)
            if job.cell.only_if is not None and not _condition_holds(job):
                computed = _skipped(job)
            elif attack.minimal_norm:
                computed = _from_search(job, attack, progress)
            else:
                computed = _evaluated(job, attack, progress)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the other jobs run, whatever the error of this one
        return partial(_publish_failure, store, _failure(job, error))
    # The images come first: a cell with a result is done.
    with current(torch.device(job.device)):
        _save_images(job, computed)
    return partial(_publish, job, store, computed)


def _batches_are_done(job: Job, progress: Callable[[int], None]) -> bool:
    """Attacks the batches of a split job that nobody else holds; whether the results of all batches are stored."""
    if is_done(job):
        return True
    with current(torch.device(job.device)):
        attack = _attack(job)
        if job.cell.only_if is not None and not _condition_holds(job):
            return True
        evaluated = _search_job(job) if attack.minimal_norm else job
        if attack.minimal_norm and _search_is_done(evaluated):
            return True

        @contextmanager
        def take(batch: range) -> Iterator[bool]:
            part = f"{batch.start}-{batch.stop}"
            with Leases(job.store).hold(lease_name(job), part) as is_free:
                # Its result may have been published, and the partial results removed, since the last look.
                yield is_free and not (_search_is_done(evaluated) if attack.minimal_norm else is_done(job))

        return attack_free_batches(**_evaluation(evaluated, attack, progress), take=take)


def _search_is_done(search: Job) -> bool:
    """Whether the search of a minimal-norm attack is stored, with its images where they are wanted."""
    return _is_stored(Store(search.store / SEARCHES), search) and _has_images(search)


def _attack(job: Job) -> Attack:
    """The attack of a job.

    Raises:
        UserError: The user's code of it has changed since the command began, so that the cell's hash is of another attack.
    """
    spec = job.cell.attack
    attack: Attack = spec.build(attacks, **load_surrogates(spec, job.loading.get("named", ())))
    if attacks.source_of(spec.name) != spec.source:
        raise UserError(f"the code of {spec.name} has changed since the command began: give the command again")
    return attack


def _condition_holds(job: Job) -> bool:
    """Whether the earlier attacks of a job's chain, at its radius, were blinded; there is no other condition."""
    results: list[Result] = []
    outcomes: list[Outcomes] = []
    earlier = job.previous
    while earlier is not None and earlier.cell.eps == job.cell.eps:
        # A cell that failed has no result.
        outcomes.append(_outcomes_of(earlier))
        results.append(Store(job.store).result(earlier.cell.id))
        earlier = earlier.previous
    if not results:
        return False
    attacks = Outcomes.stacked(outcomes)
    return blinded(results, attacks, attacks.worst_attack())


def _skipped(job: Job) -> _Computed:
    """The result of a job whose condition does not hold: the outcomes and images of the previous one."""
    previous = job.previous
    assert previous is not None
    saved = None if job.images is None else SavedImages.read(job.images, previous.cell.id).perturbed_levels / 255
    result, outcomes = Store(job.store).result(previous.cell.id), _outcomes_of(previous)
    return _Computed(
        outcomes=outcomes,
        flags=(),
        forwards=0,
        backwards=0,
        seconds=0.0,
        device=result.device,
        precision=result.precision,
        perturbed=saved,
    )


def _from_search(job: Job, attack: Attack, progress: Callable[[int], None]) -> _Computed:
    """The result of a minimal-norm attack at a job's radius, from its one search for all radii."""
    search = _search_job(job)
    store = Store(job.store / SEARCHES)
    if not _search_is_done(search):
        computed = _evaluated(search, attack, progress)
        _save_images(search, computed)
        _publish(search, store, computed)
    result = store.result(search.cell.id)
    outcomes = store.outcomes(search.cell.id)
    return _Computed(
        outcomes=outcomes if job.cell.eps is None else outcomes.within(job.cell.eps),
        flags=result.flags,
        forwards=result.forwards,
        backwards=result.backwards,
        seconds=result.seconds,
        device=result.device,
        precision=result.precision,
    )


def _search_job(job: Job) -> Job:
    """The job of a minimal-norm attack at any distance."""
    return job.model_copy(update={"cell": job.cell.model_copy(update={"eps": None}), "eps": ""})


def _evaluated(job: Job, attack: Attack, progress: Callable[[int], None]) -> _Computed:
    """Runs the attack of a job, or joins the batches of a job that was split."""
    evaluation = evaluate(**_evaluation(job, attack, progress))
    return _Computed(
        outcomes=evaluation.outcomes,
        flags=evaluation.flags,
        forwards=evaluation.forwards,
        backwards=evaluation.backwards,
        seconds=evaluation.seconds,
        device=device_name(torch.device(job.device)),
        precision=evaluation.precision,
        perturbed=evaluation.perturbed,
    )


def _evaluation(job: Job, attack: Attack, progress: Callable[[int], None]) -> dict[str, Any]:
    """The arguments of the evaluation of a job.

    Raises:
        UserError: The images have changed since the command began.
    """
    keep_freed_memory()
    cell = job.cell
    examples = _examples(job)
    limit_threads(tuple(examples.images.shape[1:]))
    if examples.sha256 != cell.data:
        raise UserError(f"the images of {cell.dataset} have changed since the command began: give the command again")
    model = _model(job)
    return {
        "model": model,
        "images": examples.images,
        "labels": examples.labels,
        "attack": attack,
        "options": cell.evaluation_options,
        "context": RunContext(
            device=torch.device(job.device),
            batch_size=job.batch_size,
            earlier=None if job.previous is None else _outcomes_of(job.previous),
            partial_results=_partial_results(job, attack),
            allow_no_gradients=job.allow_no_gradients,
            # A user's model may count its passes, so each cell makes the same ones.
            measurements=None
            if has_user_code(model)
            else _measurements(job.checkpoint, json.dumps(job.loading), cell.checkpoint),
            progress=progress,
        ),
    }


def _save_images(job: Job, computed: _Computed) -> None:
    """Saves the images of a job that has a folder for them."""
    cell, folder = job.cell, job.images
    if folder is None:
        return
    examples = _examples(job)
    clean = levels(examples.images)
    perturbed = _images_to_save(job, folder, computed, examples.images, clean)
    model = _model(job)
    context: dict[str, Any] = {"seed": cell.seed, "device": job.device, "batch_size": job.batch_size}
    predictions = predict(model, perturbed / 255, repeats=cell.repeats, **context)
    maps = saliency(model, clean / 255, examples.labels, **context)
    SavedImages.of(clean, perturbed, examples.labels, predictions, maps).write(folder, cell.id)


def _images_to_save(job: Job, folder: Path, computed: _Computed, images: Tensor, clean: Tensor) -> Tensor:
    """The adversarial image of each image in 256 levels, inside the ball, by this attack or an earlier one of its chain.

    Args:
        job: The job.
        folder: The images of earlier jobs.
        computed: Has no images if the images of a search are read.
        images: ``(N, C, H, W)`` in [0, 1].
        clean: The same in 256 levels.

    Returns:
        ``(N, C, H, W)`` uint8.
    """
    cell = job.cell
    if computed.perturbed is not None:
        perturbed = rounded(computed.perturbed, images, norm=cell.norm, eps=cell.eps)
    else:
        perturbed = SavedImages.read(folder, _search_job(job).cell.id).perturbed_levels
    if cell.eps is not None:
        outside = distance(perturbed.double() / 255, clean.double() / 255, cell.norm) > cell.eps + 1e-9
        perturbed = torch.where(per_image(outside, clean), clean, perturbed)
    if job.previous is not None:
        earlier = SavedImages.read(folder, job.previous.cell.id).perturbed_levels
        broken = torch.from_numpy(_outcomes_of(job.previous).broken())
        perturbed = torch.where(per_image(broken, clean), earlier, perturbed)
    return perturbed


def _outcomes_of(job: Job) -> Outcomes:
    """The outcomes of a job that another one continues; it is computed now if the store does not have it.

    Raises:
        UserError: The job failed.
    """
    result = work(job)
    if isinstance(result, Failure):
        # The first failure of a chain has the reason; the later ones name the cell.
        raise UserError(
            result.error
            if result.error.endswith(_EARLIER_FAILED)
            else f"the cell {result.cell.id} ({result.cell.attack.label}){_EARLIER_FAILED}"
        )
    return Store(job.store).outcomes(job.cell.id)


def _failure(job: Job, error: BaseException) -> Failure:
    """The failure of a job, while its error is handled."""
    return Failure(cell=job.cell, eps=job.eps, error=_reason(error), traceback=traceback.format_exc())


def _publish_failure(store: Store, failure: Failure) -> Failure:
    store.publish_failure(failure)
    return failure


def _publish(job: Job, store: Store, computed: _Computed) -> Result:
    """Stores the result of a job, and removes its partial results."""
    content = computed.outcomes.to_bytes()
    summary = summarize_row(computed.outcomes, is_sample=job.cell.stop_when_decided is not None)
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
        size=job.size,
        precision=computed.precision,
        origin=job.origin,
    )
    store.publish(result, content, replacing=job.replaces.get(job.cell.id))
    PartialResults(store.path / PARTIAL_RESULTS / job.cell.id, images=False).remove()
    return store.result(job.cell.id)


def _examples(job: Job) -> Slice:
    """The images that a job attacks; see :func:`~.corrupted_examples`.

    Raises:
        UserError: The user's code of a corruption has changed since the command began.
    """
    cell = job.cell
    spec = cell.corruption
    if spec is not None and corruptions.source_of(spec.name) != spec.source:
        raise UserError(f"the code of {spec.name} has changed since the command began: give the command again")
    text, seed = (None, 0) if spec is None else (spec.model_dump_json(), cell.seed)
    return _loaded_examples(cell.dataset, job.data_dir, cell.n, text, seed)


@lru_cache(maxsize=2)
def _loaded_examples(dataset: str, data_dir: Path | None, n: int, corruption: str | None, seed: int) -> Slice:
    spec = None if corruption is None else MethodSpec.model_validate_json(corruption)
    return corrupted_examples(load_dataset(dataset, data_dir=data_dir), n, spec, seed=seed)


def _model(job: Job) -> nn.Module:
    """A defended model whose passes leave the process as it was, without the state that earlier cells left in it."""
    model = copy_of(_loaded(job.checkpoint, json.dumps(job.loading), job.cell.checkpoint))
    if model is None:
        model = own_outside_state(load_defended_model(job.checkpoint, job.loading, job.cell.checkpoint))
    return isolate_passes(model)


@lru_cache(maxsize=1)
def _loaded(checkpoint: Path, loading: str, identity: str) -> nn.Module:
    """A defended model that answers no query; the latest one stays loaded."""
    return load_defended_model(checkpoint, json.loads(loading), identity)


@lru_cache(maxsize=1)
def _measurements(checkpoint: Path, loading: str, identity: str) -> dict[Hashable, Any]:
    """What the evaluations of a defended model have measured, each on a copy of its own; that of the latest model is kept."""
    return {}


def _reason(error: BaseException) -> str:
    """An error in one line, with advice if memory ran out."""
    message = one_line(error)
    return f"out of memory: give a smaller --batch-size ({message})" if is_out_of_memory(error) else message
