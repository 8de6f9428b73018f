"""The state of a suite's cells: done, running, failed, stale or missing; and what the missing ones cost."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.cost import Passes, passes
from robustbench_cli.benchmarks.evaluation.options import GridOptions
from robustbench_cli.benchmarks.evaluation.scoring import SELECTION_DRAWS
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import images_stored, is_done, lease_name
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS, SEARCHES, Store

__all__ = ["STATES", "CellState", "State", "seconds_a_pass", "states"]

State = Literal["done", "running", "failed", "stale", "missing", "untrained"]
STATES: tuple[State, ...] = get_args(State)
"""All states, in the order in which they are reported."""


@dataclass(frozen=True)
class CellState:
    """The state of one cell.

    Attributes:
        job: The cell's job.
        state: ``"running"``: a living process holds its lease. ``"untrained"``: its model is not trained yet.
            ``"stale"``: the store has a result of a cell with the same labels, and something has changed since.
        passes: An upper bound on its forward and backward passes of single images, in passes of one draw; 0 if it
            shares the search of another cell, ``None`` if unknown.
        images_stored: The number of its images whose results are stored although the cell is not done.
        changed: What has changed, in words; for a cell that is done, the other version that computed it.
    """

    job: Job
    state: State
    passes: int | None
    changed: tuple[str, ...] = ()
    images_stored: int = 0

    @property
    def passes_left(self) -> int | None:
        """The passes of the images whose results are not stored."""
        if self.state == "done" or self.passes is None:
            return self.passes and 0
        return round(self.passes * (1 - self.images_stored / self.job.cell.n))


def states(
    jobs: Sequence[Job],
    defended_models: Sequence[DefendedModel],
    *,
    stored: Mapping[str, Result],
    suite_cells: Collection[str] | None = None,
    untrained: Collection[str] = (),
    costs: bool = True,
) -> list[CellState]:
    """The state of each job.

    Args:
        jobs: Jobs of one store.
        defended_models: The models that they attack, trained or not.
        stored: The results of the store, by cell.
        suite_cells: The cells of the whole suite, where ``jobs`` is a part of it.
        untrained: The identities of the models that are not trained yet.
        costs: Whether to count passes, which runs each attack once on a single image.
    """
    models = {defended.identity: defended for defended in defended_models}
    current = {job.cell.id for job in jobs} if suite_cells is None else suite_cells
    outdated: defaultdict[Hashable, list[Result]] = defaultdict(list)
    for cell_id, result in stored.items():
        if cell_id not in current:
            outdated[_labels(result.cell)].append(result)
    begun = _begun(job.store for job in jobs)
    leases: set[str] = set()
    cell_states = []
    for job in jobs:
        lease = lease_name(job)
        count = None
        if costs:
            count = 0 if lease in leases else _most_passes(job.cell, models[job.cell.checkpoint])
        leases.add(lease)
        if is_done(job):
            cell_states.append(CellState(job, "done", count, _other_version(stored.get(job.cell.id))))
            continue
        # With several outdated results, the one that differs least.
        same_labels = outdated.get(_labels(job.cell), ()) if outdated else ()
        changes = [change for old in same_labels if (change := _changed(old, job))]
        changed = min(changes, key=len, default=())
        state = _state(job, lease, untrained, changed)
        # Few cells have partial results, and each look at a folder takes time.
        images = min(images_stored(job), job.cell.n) if lease in begun else 0
        cell_states.append(CellState(job, state, count, changed, images))
    return cell_states


def _begun(stores: Iterable[Path]) -> set[str]:
    """The names of the leases of jobs with partial results: of cells, or of searches for the jobs of a minimal-norm attack."""
    folders = [folder / PARTIAL_RESULTS for store in {*stores} for folder in (store, store / SEARCHES)]
    return {path.name for folder in folders for path in folder.glob("*")}


def _state(job: Job, lease: str, untrained: Collection[str], changed: Sequence[str]) -> State:
    if job.cell.checkpoint in untrained:
        return "untrained"
    if Leases(job.store).holder(lease) is not None:
        return "running"
    if Store(job.store).has_failed(job.cell):
        return "failed"
    return "stale" if changed else "missing"


def _labels(cell: Cell) -> Hashable:
    """The labels by which a person recognizes a cell. They stay the same when the cell becomes outdated."""
    return (
        cell.dataset,
        cell.model,
        # Another decision rule with the same weights is another row.
        tuple((defense.name, defense.parameters.get("decision")) for defense in cell.defenses),
        cell.attack.name,
        *(cell.corruption_label, cell.severity, cell.norm, cell.eps, cell.targeted, cell.seed),
    )


def _changed(old: Result, job: Job) -> tuple[str, ...]:
    """What has changed since a cell with the same labels was stored; empty if it is of another model's file."""
    was, now = old.cell, job.cell
    if _without_key(Path(old.checkpoint)) != _without_key(job.checkpoint):
        return ()
    changes = [
        *(text for pair in zip(was.defenses, now.defenses, strict=True) for text in _changed_parameters(*pair)),
        *_changed_parameters(was.attack, now.attack),
    ]
    if was.checkpoint != now.checkpoint and [spec.identity for spec in was.defenses] == [
        spec.identity for spec in now.defenses
    ]:
        changes.append("weights")
    if was.n != now.n:
        changes.append(f"n was {was.n}")
    elif was.data != now.data:
        changes.append("images")
    options = ("eot", "accounting", *GridOptions.model_fields)
    changes += [f"{name} was {getattr(was, name)}" for name in options if getattr(was, name) != getattr(now, name)]
    # If nothing else differs, the cell that it continues does.
    return tuple(changes) or ("the previous cell",)


def _changed_parameters(was: MethodSpec, now: MethodSpec) -> Iterator[str]:
    """What differs between two versions of an attack or a defense, in words."""
    if was.source != now.source:
        yield f"code of {now.name}"
    missing: Any = object()
    for key, value in now.parameters.items():
        old = was.parameters.get(key, was.parameters.get(now.formerly.get(key, key), missing))
        if was.surrogates.get(key) != now.surrogates.get(key):
            yield f"model in {now.name}.{key}"
        elif old != value and key not in now.surrogates:
            yield f"{now.name}.{key} was {'not set' if old is missing else json.dumps(old)}"


def _without_key(checkpoint: Path) -> str:
    """The name of a checkpoint's file, without the hash that the cache appends."""
    return re.sub(r"-[0-9a-f]{12}\.safetensors$", "", checkpoint.name)


def _other_version(result: Result | None) -> tuple[str, ...]:
    """The version of advdef that computed a result, in words; empty if it is the current one."""
    was = None if result is None else result.versions.get("advdef")
    return () if was in {None, versions().get("advdef")} else (f"advdef was {was}",)


def _most_passes(cell: Cell, defended: DefendedModel) -> int | None:
    """The passes of a cell whose attack breaks no image before its last step, including those that score the images."""
    if cell.attack.surrogates:
        return None
    attack = _passes(json.dumps([cell.attack.name, cell.attack.parameters]), cell.norm, defended.classes)
    if attack is None:
        return None
    if cell.eot == "exact":
        draws = defended.cost_of_all_draws or 1.0
    else:
        draws = 1.0 if cell.eot == "frozen" else float(cell.eot)
    scoring = float(cell.repeats)
    if defended.randomized:
        scoring += min(defended.cost_of_all_draws or SELECTION_DRAWS, SELECTION_DRAWS)
    goals = defended.classes - 1 if cell.targeted == "all" else 1
    return round(cell.n * (goals * draws * (attack.forwards + attack.backwards) + (1 + goals) * scoring))


@cache
def _passes(spec: str, norm: Norm, classes: int) -> Passes | None:
    """The passes of an attack, given as JSON, per image; ``None`` if it cannot be run on the probe model."""
    name, parameters = json.loads(spec)
    attack: Attack = attacks.load(name).from_parameters(parameters, name=name)
    try:
        return passes(attack, norm=norm, classes=classes)
    except Exception:  # noqa: BLE001 - a user's own attack may need a model of its own
        return None


def seconds_a_pass(stored: Iterable[Result]) -> dict[tuple[str, str], float]:
    """The seconds per pass of a store's cells, by data set and model.

    Args:
        stored: The results of the store.
    """
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    counted: Counter[tuple[str, str]] = Counter()
    for result in stored:
        model = (result.cell.dataset, result.cell.model)
        seconds[model] += result.seconds
        counted[model] += result.forwards + result.backwards
    return {model: seconds[model] / count for model, count in counted.items() if count}
