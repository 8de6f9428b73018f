"""How far the cells of a suite are, and what those that are left cost at most."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.cell import Cell
from robustbench_cli.benchmarks.claims import Claims
from robustbench_cli.benchmarks.cost import Passes, passes
from robustbench_cli.benchmarks.judge import SELECTION_DRAWS
from robustbench_cli.benchmarks.store import Store
from robustbench_cli.benchmarks.subject import Subject
from robustbench_cli.benchmarks.suite import Job
from robustbench_cli.benchmarks.worker import claimed, is_done

__all__ = ["STATES", "CellState", "State", "seconds_a_pass", "states"]

State = Literal["done", "running", "failed", "missing", "to be trained"]
STATES: tuple[State, ...] = ("done", "running", "failed", "missing", "to be trained")


@dataclass(frozen=True)
class CellState:
    """A cell of a suite and how far it is.

    Attributes:
        job: The cell.
        state: ``"running"`` where a living process is at it; ``"to be trained"`` where its model is not there yet.
        passes: Of single images through the model and back, at most, in passes of one draw; 0 where another cell's search
            gives it its result, ``None`` where that cannot be told.
    """

    job: Job
    state: State
    passes: int | None


def states(
    jobs: Sequence[Job], subjects: Sequence[Subject], *, untrained: Collection[str] = (), costs: bool = True
) -> list[CellState]:
    """How far each of some jobs is.

    Args:
        jobs: Of one store.
        subjects: The models that they attack, or what these will be.
        untrained: The identities of those that are not trained yet.
        costs: Whether passes are counted, for which each attack is run once.
    """
    models = {subject.identity: subject for subject in subjects}
    searches: set[str] = set()
    found = []
    for job in jobs:
        search = claimed(job)
        state = "to be trained" if job.cell.checkpoint in untrained else _state(job, search)
        count = None
        if costs:
            count = 0 if search in searches else _most_passes(job.cell, models[job.cell.checkpoint])
        found.append(CellState(job, state, count))
        searches.add(search)
    return found


def _state(job: Job, search: str) -> State:
    if is_done(job):
        return "done"
    if Claims(job.store).holder(search) is not None:
        return "running"
    return "failed" if Store(job.store).has_failed(job.cell) else "missing"


def _most_passes(cell: Cell, subject: Subject) -> int | None:
    """What a cell costs where the attack breaks no image before its end, with what it takes to judge the images."""
    if cell.attack.surrogates:
        return None
    attack = _passes(json.dumps([cell.attack.name, cell.attack.parameters]), cell.norm)
    if attack is None:
        return None
    if cell.eot == "exact":
        draws = subject.cost_of_all_draws or 1.0
    else:
        draws = 1.0 if cell.eot == "frozen" else float(cell.eot)
    judged = float(cell.repeats)
    if subject.randomized:
        judged += min(subject.cost_of_all_draws or SELECTION_DRAWS, SELECTION_DRAWS)
    goals = subject.classes - 1 if cell.targeted == "all" else 1
    return round(cell.n * (goals * draws * (attack.forwards + attack.backwards) + (1 + goals) * judged))


@cache
def _passes(words: str, norm: Norm) -> Passes | None:
    name, parameters = json.loads(words)
    attack: Attack = attacks.load(name).from_parameters(parameters, name=name)
    try:
        return passes(attack, norm=norm)
    except Exception:  # noqa: BLE001 - a user's own attack may do with its own models only
        return None


def seconds_a_pass(store: Path) -> dict[tuple[str, str], float]:
    """What a pass took in the cells that a store has, by data set and model; what is damaged is passed over."""
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    counted: Counter[tuple[str, str]] = Counter()
    if not store.is_dir():
        return {}
    for result in Store(store).results(damaged=lambda _: None):
        model = (result.cell.dataset, result.cell.model)
        seconds[model] += result.seconds
        counted[model] += result.forwards + result.backwards
    return {model: seconds[model] / count for model, count in counted.items() if count}
