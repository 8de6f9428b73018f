"""What every engine does with jobs."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from robustbench_cli.benchmarks.execution import worker
from robustbench_cli.benchmarks.execution.engines import local, processes
from robustbench_cli.benchmarks.execution.engines import ray as on_ray
from robustbench_cli.benchmarks.execution.engines.schedule import Schedule
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import work
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.store.records import Failure, Result
from robustbench_cli.benchmarks.store.store import Store
from robustbench_cli.core.errors import UserError
from tests.benchmarks.conftest import spec
from tests.forked import fork_workers

MakeJobs = Callable[..., list[Job]]
Engine = Callable[..., None]

OWN = """
import os, signal, time
from typing import ClassVar
from robustbench_cli.attacks.base.attack import FixedRadiusAttack

class Own(FixedRadiusAttack):
    norms: ClassVar[tuple] = ("linf",)

class Raises(Own):
    def run(self, source, images, labels, threat, random):
        raise RuntimeError("no way")

class Dies(Own):
    def run(self, source, images, labels, threat, random):
        os.kill(os.getpid(), signal.SIGKILL)

class DiesOnce(Own):
    def run(self, source, images, labels, threat, random):
        if not os.path.exists("died"):
            while not os.path.exists("die"):
                time.sleep(0.01)
            os.mkdir("died")
            os.kill(os.getpid(), signal.SIGKILL)
        return images

class Counted(Own):
    # Writes a file with the process and the sum of the images for each batch.
    def run(self, source, images, labels, threat, random):
        open(f"batch {os.getpid()} {float(images.sum())}", "x").close()
        return images

class Together(Counted):
    # Goes on when two processes attack a batch each.
    def run(self, *given):
        proposed = super().run(*given)
        while len({name.split()[1] for name in os.listdir() if name.startswith("batch ")}) < 2:
            time.sleep(0.01)
        return proposed

class FirstDies(Counted):
    # The first process that attacks a batch is killed by it.
    def run(self, *given):
        try:
            os.mkdir("died")
        except FileExistsError:
            return super().run(*given)
        os.kill(os.getpid(), signal.SIGKILL)

class Hangs(Own):
    def run(self, source, images, labels, threat, random):
        time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/cli/commands/test_sweep.py has the processes that are spawned."""
    fork_workers(monkeypatch)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this machine with two CPUs and a GPU that it only believes in, for all tests."""
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(params=["local", "processes", "ray"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    engines: dict[str, Engine] = {
        "local": local.run,
        "processes": partial(processes.run, devices=["cpu", "cpu"]),
        "ray": on_ray.run,
    }
    return engines[request.param]


@pytest.fixture(params=["processes", "ray"])
def elsewhere(request: pytest.FixtureRequest) -> Engine:
    """Every engine that computes in other processes than this."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
        return on_ray.run
    return partial(processes.run, devices=["cpu"])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Attacks of a user's own that do what no attack should."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return lambda name: spec(f"own.py:{name}")


def run(engine: Engine, jobs: list[Job], **options: Any) -> dict[str, Result | Failure]:
    """What an engine says of each job, once."""
    said: dict[str, Result | Failure] = {}

    def finished(job: Job, outcome: Result | Failure) -> None:
        assert job.cell.id not in said
        said[job.cell.id] = outcome

    engine(jobs, finished=finished, progress=lambda job, done: None, **options)
    return said


def test_every_job_is_done_and_stored(engine: Engine, jobs: MakeJobs, tmp_path: Path) -> None:
    """A chain of radii and a search at two radii among them; the outcomes are those of a worker alone."""
    asked = jobs(spec("pgd", steps=3), spec("fmn", steps=3), eps=("0.05", "0.15"))
    said = run(engine, asked)
    assert list(map(type, said.values())) == [Result] * 4
    store = Store(asked[0].store)
    assert {result.cell.id for result in store.results()} == {job.cell.id for job in asked} == set(said)
    for job in asked:
        elsewhere = job.model_copy(
            update={"store": tmp_path / "alone", "previous": job.previous and alone(job.previous, tmp_path)}
        )
        work(elsewhere)
        ours, theirs = store.outcomes(job.cell.id), Store(tmp_path / "alone").outcomes(job.cell.id)
        np.testing.assert_array_equal(ours.perturbed, theirs.perturbed)
        np.testing.assert_array_equal(ours.l2, theirs.l2)


def alone(job: Job, folder: Path) -> Job:
    return job.model_copy(update={"store": folder / "alone"})


def test_a_job_that_fails_does_not_stop_the_others(engine: Engine, jobs: MakeJobs, own: Callable[[str], Any]) -> None:
    """It is told of, and stored as a failure."""
    asked = jobs(own("Raises"), spec("fgsm"))
    said = run(engine, asked)
    assert isinstance(said[asked[1].cell.id], Result)
    failure = said[asked[0].cell.id]
    assert isinstance(failure, Failure)
    assert failure.error == "RuntimeError: no way"
    assert [each.error for each in Store(asked[0].store).failures()] == [failure.error]


def test_a_process_that_is_killed_costs_its_job(elsewhere: Engine, jobs: MakeJobs, own: Callable[[str], Any]) -> None:
    """The others are done by the processes that are left and by a new one."""
    asked = jobs(own("Dies"), spec("fgsm"), spec("pgd", steps=2))
    said = run(elsewhere, asked)
    assert [type(said[job.cell.id]) for job in asked] == [Failure, Result, Result]
    assert "its process was " in said[asked[0].cell.id].error  # type: ignore[union-attr]


def test_a_job_that_hangs_is_given_up(elsewhere: Engine, jobs: MakeJobs, own: Callable[[str], Any]) -> None:
    """After the time that was given to it, and stored as a failure."""
    (job,) = jobs(own("Hangs"))
    said = run(partial(elsewhere, timeout=1.0), [job])
    assert "time limit of 1 s exceeded" in said[job.cell.id].error  # type: ignore[union-attr]
    assert len(list(Store(job.store).failures())) == 1


SPLIT = {"n": 250, "split": True}
"""Of a job: three batches."""


def attacked(folder: Path) -> list[list[str]]:
    """The process and the sum of the images of each batch that was attacked."""
    return [path.name.split()[1:] for path in folder.glob("batch *")]


def test_processes_share_the_batches_of_a_split_job(jobs: MakeJobs, own: Callable[[str], Any], tmp_path: Path) -> None:
    """Both attack batches at once, each batch once; the job that follows begins when they are joined."""
    asked = jobs(own("Together"), spec("pgd", steps=2), eps=("0.05",), cascade=True, **SPLIT)
    seen: list[tuple[str, int]] = []
    said: dict[str, Result | Failure] = {}
    processes.run(
        asked,
        devices=["cpu", "cpu"],
        finished=lambda job, outcome: said.update({job.cell.id: outcome}),
        progress=lambda job, done: seen.append((job.cell.id, done)),
    )
    batches = attacked(tmp_path)
    assert len({process for process, _ in batches}) == 2
    assert len({images for _, images in batches}) == len(batches) == 3
    assert max(done for name, done in seen if name == asked[0].cell.id) == 250
    # Alone, the first attack does not wait.
    for name in ("batch 0", "batch 1"):
        (tmp_path / name).mkdir()
    for path in tmp_path.glob("batch * *"):
        path.unlink()
    last = asked[1]
    assert last.previous is not None
    work(last.model_copy(update={"store": tmp_path / "alone", "previous": alone(last.previous, tmp_path)}))
    ours, theirs = (Store(store).outcomes(last.cell.id) for store in (last.store, tmp_path / "alone"))
    np.testing.assert_array_equal(ours.perturbed, theirs.perturbed)
    np.testing.assert_allclose(ours.l2, theirs.l2, rtol=1e-5)


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]])
def test_a_killed_process_costs_a_split_job_one_batch(
    jobs: MakeJobs, own: Callable[[str], Any], tmp_path: Path, devices: list[str]
) -> None:
    """Which another process attacks, or a new one; a job that kills a second process fails."""
    asked = jobs(own("FirstDies"), own("Dies"), **SPLIT)
    said = run(partial(processes.run, devices=devices), asked)
    assert [type(said[job.cell.id]) for job in asked] == [Result, Failure]
    assert "its process was killed" in said[asked[1].cell.id].error  # type: ignore[union-attr]
    assert len({images for _, images in attacked(tmp_path)}) == len(attacked(tmp_path)) == 3


def test_a_split_job_that_fails_or_hangs_ends_once(jobs: MakeJobs, own: Callable[[str], Any]) -> None:
    """And with it whatever other processes compute of it."""
    asked = jobs(own("Raises"), own("Hangs"), **SPLIT)
    said = run(partial(processes.run, devices=["cpu", "cpu"], timeout=5.0), asked)
    errors = [outcome.error for outcome in said.values() if isinstance(outcome, Failure)]
    assert sorted(errors) == [
        "RuntimeError: no way",
        "time limit of 5 s exceeded: raise --timeout, or use fewer images",
    ]
    assert multiprocessing.active_children() == []


def test_what_another_process_computes_is_waited_for(engine: Engine, jobs: MakeJobs) -> None:
    """The job that is free comes first; the other one when its claim is given back."""
    asked = jobs(spec("fgsm"), spec("pgd", steps=2))
    claim = Leases(asked[0].store).hold(asked[0].cell.id)
    assert claim.__enter__()
    order = []

    def finished(job: Job, outcome: Result | Failure) -> None:
        order.append(job.cell.id)
        claim.__exit__(None, None, None)

    engine(asked, finished=finished, progress=lambda job, done: None)
    assert order == [asked[1].cell.id, asked[0].cell.id]


def test_progress_is_told(engine: Engine, jobs: MakeJobs) -> None:
    """When it begins, and the number of images that are done."""
    told: list[tuple[str, int]] = []
    (job,) = jobs(spec("fgsm"))
    engine([job], finished=lambda job, outcome: None, progress=lambda job, done: told.append((job.cell.id, done)))
    assert told == [(job.cell.id, 0), (job.cell.id, job.cell.n)]


def test_a_store_that_cannot_be_used_ends_the_run(engine: Engine, jobs: MakeJobs) -> None:
    """In one line: nothing of what follows could be kept."""
    (job,) = jobs(spec("fgsm"))
    job.store.parent.mkdir(exist_ok=True)
    job.store.write_text("")
    with pytest.raises(UserError, match="cannot write in"):
        run(engine, [job])


@pytest.mark.usefixtures("cluster")
def test_a_job_that_another_process_has_after_a_loss_is_waited_for(
    jobs: MakeJobs, own: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process dies when it has told progress; Ray begins it anew and then its claim is held."""
    (job,) = jobs(own("DiesOnce"))
    claim = Leases(job.store).hold(job.cell.id)
    postpone = Schedule.postpone

    def taken_over(job: Job, done: int) -> None:
        if not (tmp_path / "die").exists():
            (job.store / "claims" / job.cell.id).unlink()
            assert claim.__enter__()
            (tmp_path / "die").touch()

    def given_back(schedule: Schedule, job: Job) -> None:
        claim.__exit__(None, None, None)
        postpone(schedule, job)

    monkeypatch.setattr(Schedule, "postpone", given_back)
    said: list[Result | Failure] = []
    on_ray.run([job], finished=lambda job, outcome: said.append(outcome), progress=taken_over)
    assert [type(each) for each in said] == [Result]
    assert (tmp_path / "died").exists()


def test_a_cluster_that_does_not_answer_is_named(jobs: MakeJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line."""

    def refused(**given: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.1:6379")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    with pytest.raises(UserError, match=r"no Ray at RAY_ADDRESS=192.0.2.1:6379: ConnectionError: Failed"):
        run(on_ray.run, jobs(spec("fgsm")))


def test_no_process_is_left_behind(jobs: MakeJobs, own: Callable[[str], Any]) -> None:
    """Also when the run is interrupted in the middle of a job."""
    running = jobs(spec("fgsm"), own("Hangs"))

    def interrupt(job: Job, outcome: Result | Failure) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        processes.run(running, devices=["cpu", "cpu"], finished=interrupt, progress=lambda job, done: None)
    assert multiprocessing.active_children() == []


def test_a_job_is_computed_on_the_current_device_of_its_slot(
    jobs: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its model says ``cuda`` and no number."""
    now, seen = [0], []
    monkeypatch.setattr(torch.cuda, "_exchange_device", lambda index: now.append(index) or now[-2])
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", lambda index: now.append(index) or now[-2])

    def compute(*_: object) -> None:
        seen.append(now[-1])
        raise RuntimeError("seen")

    monkeypatch.setattr(worker, "_evaluated", compute)
    (job,) = jobs(spec("fgsm"))
    failed = worker.work(job.model_copy(update={"device": "cuda:1"}))
    assert isinstance(failed, Failure)
    assert (failed.error, seen, now[-1]) == ("RuntimeError: seen", [1], 0)
