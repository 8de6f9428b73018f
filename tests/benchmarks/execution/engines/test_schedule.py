from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.benchmarks.evaluation.partial_results import LEAST_SHARED
from robustbench_cli.benchmarks.execution.engines import schedule
from robustbench_cli.benchmarks.execution.engines.schedule import Schedule, shard
from robustbench_cli.benchmarks.execution.job import Job
from tests.benchmarks.conftest import MakeCell


@pytest.fixture
def chains(make_cell: MakeCell) -> list[Job]:
    """Two chains of three jobs each, one after the other, and a job of its own."""
    jobs: list[Job] = []
    for seed in range(2):
        before = None
        for eps in (0.1, 0.2, 0.3):
            after = before.cell.id if before is not None else None
            before = job(make_cell(seed=seed, eps=eps, after=after), before)
            jobs.append(before)
    return [*jobs, job(make_cell(seed=9), None)]


def job(cell: object, before: Job | None) -> Job:
    return Job.model_validate(
        {
            "cell": cell,
            "eps": "",
            "previous": before,
            "checkpoint": Path("a"),
            "loading": {},
            "store": Path("b"),
            "data_dir": None,
            "device": "cpu",
            "batch_size": None,
        }
    )


def test_one_after_the_other_comes_in_order(chains: list[Job]) -> None:
    """Where each is settled before the next is taken."""
    order, left = [], Schedule(chains)
    while left:
        taken = left.take()
        assert taken is not None
        order.append(taken)
        left.settle(taken)
    assert order == chains


def test_what_goes_on_from_a_job_waits_for_it(chains: list[Job]) -> None:
    """Only the first of each chain can be taken at once, and the next when it is settled."""
    left = Schedule(chains)
    assert [left.take(), left.take(), left.take()] == [chains[0], chains[3], chains[6]]
    assert left.take() is None
    left.settle(chains[3])
    assert left.take() == chains[4]
    assert left.take() is None


def test_a_job_does_not_wait_for_what_is_not_asked_for(chains: list[Job]) -> None:
    """It is done already, or the worker does it."""
    assert Schedule(chains[1:2]).take() == chains[1]


def test_what_others_compute_comes_again_later(chains: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """After the others, when its time has come."""
    now = [0.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])
    left = Schedule([chains[0], chains[6]])
    first = left.take()
    assert first == chains[0]
    left.postpone(first)
    assert left.take() == chains[6]
    assert left.take() is None
    now[0] += schedule.JOB_PAUSE
    assert left.take() == chains[0]


def test_a_split_job_is_taken_again_when_no_other_is_left(chains: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """The one with the fewest processes, as long as it has batches that are free; the chain goes on when it is settled."""
    now = [0.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])

    def split(job: Job, **changes: object) -> Job:
        cell = job.cell.model_copy(update={"n": 1000})
        return job.model_copy(update={"split": True, "cell": cell, **changes})

    first, other = split(chains[0]), split(chains[6])
    second, alone = split(chains[1], previous=first), chains[3]
    left = Schedule([first, second, alone, other], helpers=True)
    assert [left.take() for _ in range(5)] == [first, alone, other, first, other]
    left.postpone(first)
    assert [left.take(), left.take()] == [other, other]
    now[0] += schedule.JOB_PAUSE
    assert left.take() == first
    left.postpone(first)
    left.postpone(first)
    now[0] += schedule.JOB_PAUSE
    assert left.take() == first
    assert (left.is_settled(first), left.settle(first), left.settle(first), left.is_settled(first)) == (
        False,
        True,
        False,
        True,
    )
    left.postpone(first)
    now[0] += schedule.JOB_PAUSE
    assert left.take() == second


def test_a_split_job_has_no_more_processes_than_batches(chains: list[Job]) -> None:
    """Another process would be started for nothing; and one alone does not help itself."""
    cell = chains[0].cell.model_copy(update={"n": 2 * LEAST_SHARED})
    job = chains[0].model_copy(update={"split": True, "cell": cell})
    for helpers, taken in ((True, [True, True, False]), (False, [True, False, False])):
        left = Schedule([job], helpers=helpers)
        assert [left.take() is not None for _ in range(3)] == taken


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_shards_have_every_job_once_and_keep_chains_together(chains: list[Job], of: int) -> None:
    """Whatever their number."""
    shards = [shard(chains, number + 1, of) for number in range(of)]
    assert sorted(each.cell.id for part in shards for each in part) == sorted(each.cell.id for each in chains)
    for part in shards:
        names = {each.cell.id for each in part}
        assert all(each.previous is None or each.previous.cell.id in names for each in part)
    assert max(map(len, shards)) - min(map(len, shards)) <= 3 or of == 1
