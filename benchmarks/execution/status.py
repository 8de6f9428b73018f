"""How far the cells of a suite are, and what those that are left cost at most."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.cost import Passes, passes
from robustbench_cli.benchmarks.evaluation.scoring import SELECTION_DRAWS
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import is_done, lease_name
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.store.store import Result, Store

__all__ = ["STATES", "CellState", "State", "seconds_a_pass", "states"]

State = Literal["done", "running", "failed", "stale", "missing", "to be trained"]
STATES: tuple[State, ...] = ("done", "running", "failed", "stale", "missing", "to be trained")


@dataclass(frozen=True)
class CellState:
    """A cell of a suite and how far it is.

    Attributes:
        job: The cell.
        state: ``"running"`` where a living process is at it; ``"to be trained"`` where its model is not there yet;
            ``"stale"`` where the store has a result of the same name, of something that has changed since.
        passes: Of single images through the model and back, at most, in passes of one draw; 0 where another cell's
            search gives it its result, ``None`` where that cannot be told.
        changed: What has changed since, in words; of a cell that is done, the version that computed it where that is
            another one.
    """

    job: Job
    state: State
    passes: int | None
    changed: tuple[str, ...] = ()


def states(
    jobs: Sequence[Job],
    defended_models: Sequence[DefendedModel],
    *,
    stored: Mapping[str, Result],
    wanted: Collection[str] | None = None,
    untrained: Collection[str] = (),
    costs: bool = True,
) -> list[CellState]:
    """How far each of some jobs is.

    Args:
        jobs: Of one store.
        defended_models: The models that they attack, or what these will be.
        stored: The results that the store has, by cell.
        wanted: The cells of the whole suite, where these are but some of them.
        untrained: The identities of the models that are not trained yet.
        costs: Whether passes are counted, for which each attack is run once.
    """
    models = {defended.identity: defended for defended in defended_models}
    known = {job.cell.id for job in jobs} if wanted is None else wanted
    earlier: defaultdict[Hashable, list[Result]] = defaultdict(list)
    for cell_id, result in stored.items():
        if cell_id not in known:
            earlier[_name(result.cell)].append(result)
    searches: set[str] = set()
    found = []
    for job in jobs:
        search = lease_name(job)
        count = None
        if costs:
            count = 0 if search in searches else _most_passes(job.cell, models[job.cell.checkpoint])
        searches.add(search)
        if is_done(job):
            found.append(CellState(job, "done", count, _other_version(stored.get(job.cell.id))))
            continue
        changed = min((each for old in earlier[_name(job.cell)] if (each := _changed(old, job))), key=len, default=())
        found.append(CellState(job, _state(job, search, untrained, changed), count, changed))
    return found


def _state(job: Job, search: str, untrained: Collection[str], changed: Sequence[str]) -> State:
    if job.cell.checkpoint in untrained:
        return "to be trained"
    if Leases(job.store).holder(search) is not None:
        return "running"
    if Store(job.store).has_failed(job.cell):
        return "failed"
    return "stale" if changed else "missing"


def _name(cell: Cell) -> Hashable:
    """What a person calls a cell by: equal for those of which one may be what has become of the other."""
    return (
        cell.dataset,
        cell.model,
        # Another rule of decision is another row of the same weights.
        tuple((each.name, each.parameters.get("decision")) for each in cell.defenses),
        cell.attack.name,
        *(cell.norm, cell.eps, cell.targeted, cell.seed),
    )


def _changed(old: Result, job: Job) -> tuple[str, ...]:
    """What has changed since a cell of the same name was stored; nothing where it is of another model's file."""
    was, now = old.cell, job.cell
    if _without_key(Path(old.checkpoint)) != _without_key(job.checkpoint):
        return ()
    found = [
        *(words for each in zip(was.defenses, now.defenses, strict=True) for words in _changed_method(*each)),
        *_changed_method(was.attack, now.attack),
    ]
    if was.checkpoint != now.checkpoint and all(
        before.identity == after.identity for before, after in zip(was.defenses, now.defenses, strict=True)
    ):
        found.append("weights")
    if was.n != now.n:
        found.append(f"n was {was.n}")
    elif was.data != now.data:
        found.append("images")
    words = ("eot", "repeats", "precision", "accounting")
    found += [f"{word} was {getattr(was, word)}" for word in words if getattr(was, word) != getattr(now, word)]
    # What it goes on from has changed where all else has not.
    return tuple(found) or ("the cell before it",)


def _changed_method(was: MethodSpec, now: MethodSpec) -> Iterator[str]:
    if was.source != now.source:
        yield f"code of {now.name}"
    missing: Any = object()
    for key, value in now.parameters.items():
        before = was.parameters.get(key, was.parameters.get(now.formerly.get(key, key), missing))
        if was.surrogates.get(key) != now.surrogates.get(key):
            yield f"model in {now.name}.{key}"
        elif before != value and key not in now.surrogates:
            yield f"{now.name}.{key} was {'not there' if before is missing else json.dumps(before)}"


def _without_key(checkpoint: Path) -> str:
    """The name of a checkpoint's file; of a training's, without what tells it from other trainings of that name."""
    return re.sub(r"-[0-9a-f]{12}\.safetensors$", "", checkpoint.name)


def _other_version(result: Result | None) -> tuple[str, ...]:
    was = None if result is None else result.versions.get("advdef")
    return () if was in {None, versions().get("advdef")} else (f"advdef was {was}",)


def _most_passes(cell: Cell, defended: DefendedModel) -> int | None:
    """What a cell costs where the attack breaks no image before its end, with what it takes to judge the images."""
    if cell.attack.surrogates:
        return None
    attack = _passes(json.dumps([cell.attack.name, cell.attack.parameters]), cell.norm)
    if attack is None:
        return None
    if cell.eot == "exact":
        draws = defended.cost_of_all_draws or 1.0
    else:
        draws = 1.0 if cell.eot == "frozen" else float(cell.eot)
    judged = float(cell.repeats)
    if defended.randomized:
        judged += min(defended.cost_of_all_draws or SELECTION_DRAWS, SELECTION_DRAWS)
    goals = defended.classes - 1 if cell.targeted == "all" else 1
    return round(cell.n * (goals * draws * (attack.forwards + attack.backwards) + (1 + goals) * judged))


@cache
def _passes(words: str, norm: Norm) -> Passes | None:
    name, parameters = json.loads(words)
    attack: Attack = attacks.load(name).from_parameters(parameters, name=name)
    try:
        return passes(attack, norm=norm)
    except Exception:  # noqa: BLE001 - a user's own attack may do with its own models only
        return None


def seconds_a_pass(stored: Iterable[Result]) -> dict[tuple[str, str], float]:
    """What a pass took in the cells of a store, by data set and model."""
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    counted: Counter[tuple[str, str]] = Counter()
    for result in stored:
        model = (result.cell.dataset, result.cell.model)
        seconds[model] += result.seconds
        counted[model] += result.forwards + result.backwards
    return {model: seconds[model] / count for model, count in counted.items() if count}
