"""Computes one job and publishes its result: the one road from a cell to the store."""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.benchmarks.checkpoint import load_checkpoint, versions
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import Slice, first_examples
from robustbench_cli.benchmarks.devices import keep_freed_memory
from robustbench_cli.benchmarks.evaluation import evaluate
from robustbench_cli.benchmarks.outcomes import Outcomes, summarise
from robustbench_cli.benchmarks.store import Failure, Result, Store
from robustbench_cli.benchmarks.suite import Job

__all__ = ["work"]


def work(job: Job, *, progress: Callable[[int], None] = lambda _: None) -> Result | Failure:
    """Runs a job, or finds its result in the store, and publishes it.

    A job that cannot be finished is published as a failure with its reason in one line.

    Args:
        job: What to run.
        progress: Called with the number of images done.
    """
    store = Store(job.store)
    if job.cell in store:
        return store.result(job.cell.id)
    try:
        return _finish(job, store, progress)
    except Exception as error:
        failure = Failure(cell=job.cell, error=_one_line(error), traceback=traceback.format_exc())
        store.publish_failure(failure)
        return failure


def _finish(job: Job, store: Store, progress: Callable[[int], None]) -> Result:
    attack = attacks.load(job.cell.attack.name).from_parameters(job.cell.attack.parameters, name=job.cell.attack.name)
    if attack.minimal_norm and job.cell.eps is not None:
        return _read_at_radius(job, store, progress)
    computed = _compute(job, attack, progress)
    return _publish(job, store, computed)


@dataclass(frozen=True, kw_only=True)
class _Computed:
    """What a run gives, before it is a result of a cell."""

    outcomes: Outcomes
    flags: tuple[str, ...]
    forwards: int
    backwards: int
    seconds: float
    device: str


def _compute(job: Job, attack: Attack, progress: Callable[[int], None]) -> _Computed:
    keep_freed_memory()
    cell, device = job.cell, torch.device(job.device)
    examples = _examples(cell.dataset, job.data_dir, cell.n)
    if examples.sha256 != cell.data:
        raise UserError(f"the images of {cell.dataset} have changed since the cell was planned: give the command again")
    evaluation = evaluate(
        _model(job.checkpoint, json.dumps(job.loading)),
        examples.images,
        examples.labels,
        attack=attack,
        norm=cell.norm,  # type: ignore[arg-type]
        eps=cell.eps,
        targeted=cell.targeted,
        eot=cell.eot,
        repeats=cell.repeats,
        seed=cell.seed,
        device=device,
        batch_size=job.batch_size,
        progress=progress,
    )
    return _Computed(
        outcomes=evaluation.outcomes,
        flags=evaluation.flags,
        forwards=evaluation.forwards,
        backwards=evaluation.backwards,
        seconds=evaluation.seconds,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    )


def _read_at_radius(job: Job, store: Store, progress: Callable[[int], None]) -> Result:
    """Reads a minimal-norm attack at a radius: it runs once, as a cell of its own, for all radii."""
    whole = job.model_copy(update={"cell": job.cell.model_copy(update={"eps": None}), "eps": ""})
    found = work(whole, progress=progress)
    if isinstance(found, Failure):
        raise UserError(found.error)
    assert job.cell.eps is not None
    outcomes = store.outcomes(whole.cell.id).within(job.cell.eps)
    costs = {name: getattr(found, name) for name in ("flags", "forwards", "backwards", "seconds", "device")}
    return _publish(job, store, _Computed(outcomes=outcomes, **costs))


def _publish(job: Job, store: Store, computed: _Computed) -> Result:
    content = computed.outcomes.to_bytes()
    summary = summarise(computed.outcomes)
    result = Result(
        cell=job.cell,
        eps=job.eps,
        checkpoint=str(job.checkpoint),
        summary={key: None if math.isnan(value) else value for key, value in summary.items()},
        flags=computed.flags,
        forwards=computed.forwards,
        backwards=computed.backwards,
        seconds=computed.seconds,
        device=computed.device,
        versions=versions(),
        outcomes_sha256=hashlib.sha256(content).hexdigest(),
    )
    store.publish(result, content)
    return result


@lru_cache(maxsize=2)
def _examples(dataset: str, data_dir: Any, n: int) -> Slice:
    return first_examples(load_dataset(dataset, data_dir=data_dir).split("test"), n)


@lru_cache(maxsize=1)
def _model(checkpoint: Any, loading: str) -> nn.Module:
    model, _, _ = load_checkpoint(checkpoint, **json.loads(loading))
    return model


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split())[:300]
    return words if isinstance(error, UserError) else f"{type(error).__name__}: {words}"
