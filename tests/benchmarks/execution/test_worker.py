from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.di_fgsm import DIFGSM
from robustbench_cli.attacks.transfer import Transfer
from robustbench_cli.benchmarks.checkpoints.checkpoint import CheckpointInfo, save_checkpoint
from robustbench_cli.benchmarks.checkpoints.defended_model import (
    DefendedModel,
    load_defended_model,
    open_defended_model,
)
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.evaluation import evaluate as evaluation
from robustbench_cli.benchmarks.evaluation import partial_results
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation, evaluate
from robustbench_cli.benchmarks.evaluation.outcomes import summarize
from robustbench_cli.benchmarks.evaluation.partial_results import BatchResult, division, shared_batch
from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages
from robustbench_cli.benchmarks.evaluation.search import AttackSearch
from robustbench_cli.benchmarks.execution import worker
from robustbench_cli.benchmarks.execution.engines import local
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import is_done, lease_name, rerun, work, work_if_free
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.store.leftovers import leftovers
from robustbench_cli.benchmarks.store.records import Failure, Result
from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS, SEARCHES, Store
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import UserError

from ..conftest import ATTACKED as N
from ..conftest import spec

BROKEN = """
import os
from typing import ClassVar
from robustbench_cli.attacks.base.attack import FixedRadiusAttack

class Broken(FixedRadiusAttack):
    norms: ClassVar[tuple] = ("linf",)

    def run(self, source, images, labels, threat, random):
        if "MENDED" not in os.environ:
            raise RuntimeError("no\\nway")
        return images
"""

TIRED = '''
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, *, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))
        self.rows = 0

    def forward(self, images):
        self.rows += len(images)
        return super().forward(images if self.rows < 400 else images.round())

class Alone(Net):
    def __deepcopy__(self, memo):
        raise TypeError

ROWS = 0

class Outside(Net):
    """Counts in a global of its file."""

    def forward(self, images):
        global ROWS
        ROWS += len(images)
        self.rows = ROWS - len(images)
        return super().forward(images)

class OutsideAlone(Outside, Alone):
    pass
'''


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The attacks that were really run, in order."""
    run: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> Evaluation:
        run.append(options["attack"])
        return evaluate(*arguments, **options)

    monkeypatch.setattr(worker, "evaluate", counted)
    return run


CW = {"steps": 20, "binary_search_steps": 2}


def done(job: Job) -> Result:
    """The result of a job that does not fail."""
    result = work(job)
    assert isinstance(result, Result), result
    return result


def test_a_job_is_run_once(jobs: Callable[..., list[Job]], evaluations: list[Any]) -> None:
    """The second time its stored result comes back, to the last bit."""
    (job,) = jobs(spec("pgd", steps=3))
    first = done(job)
    assert done(job) == first
    assert len(evaluations) == 1


@pytest.mark.parametrize("name", ["Net", "Alone", "Outside", "OutsideAlone"])
def test_no_cell_sees_what_earlier_cells_left_in_the_model(
    name: str, jobs: Callable[..., list[Job]], tmp_path: Path
) -> None:
    """A model that hides its gradient after 400 rows gives the same result first and later, also where it cannot be copied."""
    (tmp_path / "own.py").write_text(TIRED)
    own, path = f"{tmp_path / 'own.py'}:{name}", tmp_path / "own.safetensors"
    info = CheckpointInfo(model=own, shape=(1, 8, 8), classes=10)
    torch.manual_seed(0)
    save_checkpoint(path, build_model(own, shape=(1, 8, 8), classes=10), info)
    defended = open_defended_model(path, named=[own])
    asked = jobs(spec("pgd", steps=3), spec("pgd", steps=20), subject=defended, n=100)
    together = [done(job) for job in asked]
    for job, result in zip(asked, together, strict=True):
        worker._loaded.cache_clear()
        alone = done(job.model_copy(update={"store": tmp_path / "alone"}))
        assert (result.flags, result.summary) == (alone.flags, alone.summary)
        assert "remembers" in result.flags or name.endswith("Alone")


def test_a_result_is_that_of_its_outcomes(jobs: Callable[..., list[Job]], defended: DefendedModel) -> None:
    """The stored figures are those of the stored outcomes, and both those of an evaluation in Python."""
    (job,) = jobs(spec("pgd", steps=3))
    result = done(job)
    assert summarize(Store(job.store).outcomes(job.cell.id)) == pytest.approx(result.summary)
    examples = first_examples(load_dataset("digits").split("test"), N)
    attack = attacks.load("pgd")(steps=3)
    direct = evaluate(defended.load(), examples.images, examples.labels, attack=attack, eps=0.15)
    assert direct.summary == pytest.approx(result.summary)
    assert (result.forwards, result.backwards) == (direct.forwards, direct.backwards)
    assert (result.eps, result.device, result.checkpoint) == ("0.15", "cpu", str(defended.path))
    assert result.size == defended.size


def test_the_same_cell_gives_the_same_row_anywhere(
    jobs: Callable[..., list[Job]], tmp_path: Path, cache: Callable[..., ModelCache]
) -> None:
    """Into another store, from another file and with another batch size, a cell has one identity and one outcome."""
    (job,) = jobs(spec("pgd", steps=3))
    moved = cache(epochs=8).trained(cache(epochs=8).training(), tmp_path / "moved.safetensors")
    (other,) = jobs(spec("pgd", steps=3), subject=moved, batch_size=7)
    other = other.model_copy(update={"store": tmp_path / "other"})
    assert (other.checkpoint, other.cell) == (moved.path, job.cell)
    assert done(other).summary == pytest.approx(done(job).summary)


def test_a_minimal_norm_attack_runs_once_for_all_radii(
    jobs: Callable[..., list[Job]], evaluations: list[Any], tmp_path: Path
) -> None:
    """Each radius is read off its distances, also later and at none, and only what was asked for is a result."""
    found = [done(job) for job in jobs(spec("cw", **CW), eps=("0.3", "0.6", "0"))]
    assert len(evaluations) == 1
    store = Store(tmp_path / "store")
    assert {result.cell.eps for result in store.results()} == {0, 0.3, 0.6}
    left = [result.summary["robust_accuracy"] for result in found]
    assert left[0] == found[0].summary["clean_accuracy"]
    assert left[0] > left[1] > left[2]  # type: ignore[operator]
    (whole,) = jobs(spec("cw", **CW))
    outcomes = store.outcomes(done(whole).cell.id)
    assert len(evaluations) == 1
    for result in found:
        assert result.cell.eps is not None
        read = summarize(outcomes.within(result.cell.eps))
        for figure in ("clean_accuracy", "robust_accuracy", "robust_accuracy_low", "attack_success_rate"):
            assert result.summary[figure] == read[figure]
        assert result.forwards == done(whole).forwards
    done(jobs(spec("cw", **CW), eps=("0.45",))[0])
    assert len(evaluations) == 1


def test_a_failure_is_stored_and_tried_again(
    jobs: Callable[..., list[Job]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told in one line, stops no other job, and gives way to the result of a later try."""
    (tmp_path / "broken.py").write_text(BROKEN)
    planned = jobs(spec(f"{tmp_path / 'broken.py'}:Broken"), spec("fgsm"))
    finished: list[tuple[str, Result | Failure]] = []
    local.run(
        planned, finished=lambda job, result: finished.append((job.cell.id, result)), progress=lambda job, done: None
    )
    assert [cell for cell, _ in finished] == [job.cell.id for job in planned]
    failure, result = finished[0][1], finished[1][1]
    assert isinstance(failure, Failure)
    assert isinstance(result, Result)
    assert failure.error == "RuntimeError: no way"
    assert "broken.py" in failure.traceback
    store = Store(tmp_path / "store")
    assert list(store.failures()) == [failure]
    monkeypatch.setenv("MENDED", "1")
    mended = done(planned[0])
    assert mended.flags == ()
    assert list(store.failures()) == []
    assert {each.cell.id for each in store.results()} == {job.cell.id for job in planned}


def test_an_interruption_is_no_failure(
    jobs: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ctrl-C goes through, and leaves nothing of the cell behind."""
    (job,) = jobs(spec("fgsm"))

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        work(job)
    store = Store(tmp_path / "store")
    store.ensure_writable()
    assert list(store.failures()) == list(store.results()) == []


def too_large_for_the_cpu() -> None:
    """Allocates 4 PiB, which torch's CPU allocator refuses."""
    torch.empty(2**50)


def too_large_for_the_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def wrong_shapes() -> None:
    torch.zeros(2) + torch.zeros(3)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (too_large_for_the_cpu, r"out of memory: give a smaller --batch-size \(RuntimeError: .*allocate .*bytes.*\)"),
        (
            too_large_for_the_gpu,
            r"out of memory: give a smaller --batch-size \(OutOfMemoryError: CUDA out of memory. Tried .*\)",
        ),
        (wrong_shapes, r"RuntimeError: The size of tensor a \(2\) must match .*"),
    ],
)
def test_out_of_memory_names_the_batch_size(
    jobs: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch, fault: Callable[[], None], message: str
) -> None:
    """The errors of torch's allocators name the option that helps; any other error of torch does not."""
    monkeypatch.setattr(worker, "evaluate", lambda *_, **__: fault())
    failure = work(jobs(spec("fgsm"))[0])
    assert isinstance(failure, Failure)
    assert re.fullmatch(message, failure.error)


def test_of_cells_that_build_on_each_other_the_first_says_why(
    jobs: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of several radii names the cell that failed, which has the reason, and none between them."""

    def refused(*_: Any, **__: Any) -> None:
        raise UserError("the reason")

    monkeypatch.setattr(worker, "evaluate", refused)
    first, _, last = jobs(spec("pgd", steps=1), eps=("0.1", "0.2", "0.3"))
    failure = work(last)
    assert isinstance(failure, Failure)
    assert failure.error == f"the cell {first.cell.id} (pgd(steps=1)), which this cell continues, failed"
    of_first = work(first)
    assert isinstance(of_first, Failure)
    assert of_first.error == "the reason"


@pytest.fixture
def cut_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The model of every job gives no gradients."""

    class Cut(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                logits: torch.Tensor = self.network(images)
            return logits

    load = worker.load_defended_model
    worker._loaded.cache_clear()
    monkeypatch.setattr(worker, "load_defended_model", lambda *arguments: Cut(load(*arguments)))
    yield
    worker._loaded.cache_clear()


@pytest.mark.usefixtures("cut_model")
def test_a_cascade_goes_on_where_the_model_gives_no_gradients(jobs: Callable[..., list[Job]]) -> None:
    """Attacks by gradients break nothing and are flagged; Square is as strong as alone, and the worst case says it."""
    square = spec("square", queries=200)
    first, second, last = map(
        done, jobs(spec("pgd", steps=3), spec("fmn", steps=3), square, eps=("0.2",), cascade=True)
    )
    alone = done(jobs(square, eps=("0.2",))[0])
    assert first.flags == second.flags == ("no-gradients",)
    assert first.summary["robust_accuracy"] == second.summary["robust_accuracy"] == first.summary["clean_accuracy"]
    assert last.summary["robust_accuracy"] == alone.summary["robust_accuracy"] < first.summary["robust_accuracy"]


@pytest.mark.usefixtures("cut_model")
@pytest.mark.parametrize("attacks", [("pgd",), ("pgd", "fgsm")])
def test_a_model_without_gradients_needs_an_attack_without_them(
    jobs: Callable[..., list[Job]], attacks: tuple[str, ...]
) -> None:
    """Without one the cells fail: an accuracy that nothing attacked is no robust accuracy."""
    outcomes = [work(job) for job in jobs(*map(spec, attacks), eps=("0.1",), cascade=True)]
    assert all(isinstance(outcome, Failure) for outcome in outcomes)


def test_a_condition_on_a_failed_cell_names_it(jobs: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no result of it to read."""

    def refused(*_: Any, **__: Any) -> None:
        raise UserError("the reason")

    monkeypatch.setattr(worker, "evaluate", refused)
    first, last = jobs(spec("pgd", steps=1), spec("square"), eps=("0.1",), cascade=True)
    cell = last.cell.model_copy(update={"only_if": "gradients_masked"})
    failure = work(last.model_copy(update={"cell": cell}))
    assert isinstance(failure, Failure)
    assert failure.error == f"the cell {first.cell.id} (pgd(steps=1)), which this cell continues, failed"


def test_what_has_changed_since_is_not_run(jobs: Callable[..., list[Job]], cache: Callable[..., ModelCache]) -> None:
    """Other images, or another model under the checkpoint's name, are no longer the cell that was planned."""
    (job,) = jobs(spec("fgsm"))
    other_data = job.model_copy(update={"cell": job.cell.model_copy(update={"data": "0" * 64})})
    other_model = job.model_copy(update={"cell": job.cell.model_copy(update={"checkpoint": "0" * 64})})
    for changed, told in ((other_data, "the images of digits have changed"), (other_model, "safetensors has changed")):
        failure = work(changed)
        assert isinstance(failure, Failure)
        assert told in failure.error
        assert failure.error.endswith("since the command began: give the command again")


def test_a_surrogate_is_loaded_where_the_job_is_done(
    jobs: Callable[..., list[Job]], cache: Callable[..., ModelCache], defended: DefendedModel, tmp_path: Path
) -> None:
    """The stored figures are those of the loaded model in Python; another model in its file is not taken for it."""
    prepared = cache(seed=1, epochs=8)
    other = prepared.trained(prepared.training(), tmp_path / "other.safetensors")
    (job,) = jobs(spec("transfer", surrogate=str(other.path), attack={"name": "di-fgsm", "steps": 3}))
    examples = first_examples(load_dataset("digits").split("test"), N)
    attack = Transfer(surrogate=other.load(), attack=DIFGSM(steps=3))
    direct = evaluate(defended.load(), examples.images, examples.labels, attack=attack, eps=0.15)
    assert done(job).summary == pytest.approx(direct.summary)
    assert done(job).cell.attack_label == f"transfer(surrogate={other.path},attack.name=di-fgsm,attack.steps=3)"
    (again,) = jobs(spec("transfer", surrogate=str(other.path)))
    other.path.write_bytes(defended.path.read_bytes())
    failure = work(again)
    assert isinstance(failure, Failure)
    assert failure.error == f"{other.path} has changed since the command began: give the command again"


def test_progress_is_told_for_each_job(jobs: Callable[..., list[Job]]) -> None:
    """With the job that it is of, from when it begins."""
    planned = jobs(spec("fgsm"), spec("pgd", steps=2))
    told: list[tuple[str, int]] = []
    local.run(
        planned, finished=lambda job, result: None, progress=lambda job, done: told.append((job.cell.attack.name, done))
    )
    assert told == [("fgsm", 0), ("fgsm", N), ("pgd", 0), ("pgd", N)]


def test_what_fell_at_a_smaller_radius_is_not_attacked_again(jobs: Callable[..., list[Job]], tmp_path: Path) -> None:
    """At each radius of a curve only what stands is attacked; no accuracy rises with the radius, nor above a lone attack's."""
    chain = jobs(spec("pgd", steps=5), eps=("0.3", "0.05", "0.15"))
    results = [done(job) for job in reversed(chain)][::-1]
    assert [result.cell.eps for result in results] == [0.05, 0.15, 0.3]
    store = Store(tmp_path / "store")
    for smaller, larger in itertools.pairwise(results):
        fell = store.outcomes(smaller.cell.id).broken()
        standing = int((~fell).sum())
        assert 0 < standing < len(fell)
        before, after = store.outcomes(smaller.cell.id), store.outcomes(larger.cell.id)
        assert (after.distance[:, fell] == before.distance[:, fell]).all()
        assert after.broken()[fell].all()
        # The clean image, five steps and the last iterate; the scoring and the second look.
        assert larger.backwards <= 5 * standing
        (alone,) = jobs(spec("pgd", steps=5), eps=(str(larger.cell.eps),))
        lone = done(alone)
        assert alone.cell.id != larger.cell.id
        assert larger.summary["robust_accuracy"] <= lone.summary["robust_accuracy"]  # type: ignore[operator]
        assert larger.backwards < lone.backwards


@pytest.mark.parametrize("attack", [spec("pgd", steps=5), spec("cw", **CW)])
def test_saved_images_are_what_was_scored(attack: MethodSpec, jobs: Callable[..., list[Job]], tmp_path: Path) -> None:
    """The files of every radius hold images in the ball on which the model, asked again, says what is written there."""
    folder = tmp_path / "images"
    plain = jobs(attack, eps=("0.3", "0.6"))
    results = [done(job) for job in plain]
    chain = [job.model_copy(update={"images": folder, "previous": None}) for job in plain[:1]]
    chain += [job.model_copy(update={"images": folder, "previous": job.previous and chain[0]}) for job in plain[1:]]
    for job, result in zip(chain, results, strict=True):
        assert done(job) == result
        saved = SavedImages.read(folder, job.cell.id)
        assert saved.saliency is not None
        moved = torch.from_numpy(saved.perturbed).double() - torch.from_numpy(saved.images).double()
        assert job.cell.eps is not None
        radii = distance(moved.permute(0, 3, 1, 2), torch.zeros_like(moved).permute(0, 3, 1, 2), job.cell.norm)  # type: ignore[arg-type]
        assert (radii <= 255 * job.cell.eps * (1 + 1e-9)).all()
        model = load_defended_model(job.checkpoint, job.loading, job.cell.checkpoint)
        with torch.no_grad():
            images = torch.from_numpy(saved.perturbed).permute(0, 3, 1, 2) / 255
            assert np.array_equal(model(images).argmax(1), saved.predictions[0])
        clean = result.summary["clean_accuracy"]
        assert clean is not None
        assert saved.robust_accuracy < clean


@pytest.mark.parametrize("attack", ["pgd", "fmn"])
def test_what_is_run_again_stays_until_the_new_result_is_whole(
    attack: str, jobs: Callable[..., list[Job]], evaluations: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the new run fails or is cut off; then the new one is read with its own outcomes, and is not run once more.

    What goes before it is run again too, and a search once for all radii.
    """
    asked = jobs(spec(attack, steps=3), eps=("0.05", "0.1"))
    store = Store(asked[0].store)
    first = [done(job) for job in asked]
    renewed = rerun(asked)
    assert not any(map(is_done, renewed))
    with monkeypatch.context() as patch:
        patch.setattr(worker, "evaluate", None)
        assert isinstance(work(renewed[0]), Failure)
    assert list(store.failures()) == []
    assert {result.cell.id: result for result in store.results()} == {result.cell.id: result for result in first}
    evaluations.clear()
    seen: list[Result] = []
    second = [work(job, progress=lambda _, job=job: seen.append(store.result(job.cell.id))) for job in renewed]  # type: ignore[misc]
    assert len(evaluations) == len(seen) == (1 if attack == "fmn" else 2)
    assert seen == first[: len(seen)]
    assert all(map(is_done, renewed))
    for before, after in zip(first, second, strict=True):
        assert store.result(after.cell.id) == after != before
        assert after.summary == before.summary  # type: ignore[union-attr]
        assert store.outcomes(after.cell.id)
    left = {path.name for path in (store.path / "cells").iterdir()} - {
        path.name for path in leftovers(store, older_than=0)
    }
    assert len(left) == 4


def test_a_damaged_result_is_run_again(jobs: Callable[..., list[Job]]) -> None:
    """A new one takes its place."""
    (job,) = jobs(spec("pgd", steps=3))
    first = done(job)
    path = job.store / "cells" / f"{job.cell.id}.json"
    path.write_bytes(path.read_bytes()[:-1])
    (renewed,) = rerun([job])
    assert done(renewed).summary == first.summary
    assert is_done(renewed)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Split cells have batches of five images; and the images of the batches that were attacked, first ones."""
    monkeypatch.setattr(partial_results, "LEAST_SHARED", 5)
    attacked: list[int] = []

    def counted(search: AttackSearch, indices: torch.Tensor, *rest: Any) -> BatchResult:
        attacked.append(int(indices[0]))
        return run(search, indices, *rest)

    run = AttackSearch.run
    monkeypatch.setattr(AttackSearch, "run", counted)
    return attacked


@pytest.mark.parametrize("attack", ["pgd", "fmn"])
def test_a_split_job_is_joined_when_its_last_batch_is_there(
    jobs: Callable[..., list[Job]], batches: list[int], attack: str
) -> None:
    """Others hold its second batch, and later its last one: of the rest each is attacked once, and nothing is published."""
    (job,) = jobs(spec(attack, steps=3), eps=("0.1",), split=True)
    leases = Leases(job.store)
    seen: list[int] = []
    with leases.hold(lease_name(job), "5-10"):
        assert work_if_free(job, progress=seen.append) is None
        assert (batches, seen[-1]) == ([0, 10, 15], 15)
        assert not is_done(job)
    folder = job.store / (SEARCHES if attack == "fmn" else "") / PARTIAL_RESULTS
    next(folder.glob("*/15-20.piece")).unlink()
    with leases.hold(lease_name(job), "15-20"):
        assert work_if_free(job) is None
    assert batches == [0, 10, 15, 5]
    joined = work_if_free(job)
    assert isinstance(joined, Result)
    assert batches == [0, 10, 15, 5, 15]
    assert work_if_free(job) == joined
    assert len(batches) == 5
    assert not list(folder.glob("*/*"))
    # The processor's seconds are those of all batches.
    assert joined.forwards > 0


def test_a_split_job_that_another_computes_whole_is_left_to_it(
    jobs: Callable[..., list[Job]], batches: list[int]
) -> None:
    """And the other way round: who does not split waits for those who do."""
    (job,) = jobs(spec("pgd", steps=3), split=True)
    with Leases(job.store).hold(lease_name(job)):
        assert work_if_free(job) is None
    with Leases(job.store).hold(lease_name(job), "0-5"):
        assert work_if_free(job.model_copy(update={"split": False})) is None
    assert batches == []


def test_a_batch_is_not_attacked_when_its_cell_is_published_meanwhile(
    jobs: Callable[..., list[Job]], batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look and the lease, another process joins all batches and removes them."""
    (job,) = jobs(spec("pgd", steps=3), split=True)
    hold = Leases.hold

    def held(leases: Leases, name: str, part: str | None = None) -> Any:
        if part is not None:
            monkeypatch.setattr(Leases, "hold", hold)
            assert isinstance(work_if_free(job), Result)
        return hold(leases, name, part)

    monkeypatch.setattr(Leases, "hold", held)
    assert isinstance(work_if_free(job), Result | None)
    assert batches == [0, 5, 10, 15]
    assert not list((job.store / PARTIAL_RESULTS).glob("*/*"))


@pytest.mark.parametrize("cascade", [False, True])
def test_split_jobs_have_the_results_of_whole_ones(
    jobs: Callable[..., list[Job]],
    batches: list[int],
    cache: Callable[..., ModelCache],
    hrs: MethodSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cascade: bool,
) -> None:
    """Of a randomized defense too, in a cascade or at several radii, with their images; run again, each batch comes again."""
    model = cache(epochs=1)
    subject = model.trained(model.training(defenses=[hrs]))
    asked = jobs(spec("fgsm"), spec("pgd", steps=3), eps=("0.02", "0.05"), cascade=cascade, subject=subject, split=True)
    # To the bit, results are equal where the batches are.
    monkeypatch.setattr(
        evaluation, "division", lambda total, size, stored=(): division(total, shared_batch(total, 512), stored)
    )

    def elsewhere(job: Job) -> Job:
        changes = {"store": tmp_path / "whole", "images": tmp_path / "whole images", "split": False}
        return job.model_copy(update={**changes, "previous": job.previous and elsewhere(job.previous)})

    def with_images(job: Job) -> Job:
        previous = job.previous and with_images(job.previous)
        return job.model_copy(update={"images": tmp_path / "images", "previous": previous})

    for job in map(with_images, asked):
        whole = done(elsewhere(job))
        split = work_if_free(job)
        assert isinstance(split, Result), split
        assert split.model_copy(update={"seconds": 0.0}) == whole.model_copy(update={"seconds": 0.0})
        for ours, theirs in zip(
            *(
                SavedImages.read(folder, job.cell.id).__dict__.values()
                for folder in (job.images, tmp_path / "whole images")
            ),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
    batches.clear()
    for job in rerun([asked[0]]):
        assert isinstance(work_if_free(job), Result)
    assert batches == [0, 5, 10, 15]


def test_an_error_in_one_batch_is_the_cells(
    jobs: Callable[..., list[Job]], batches: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is stored in one line; the batches before it stay for the next time."""
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    (job,) = jobs(spec("broken.py:Broken"), split=True)
    failed = work_if_free(job)
    assert isinstance(failed, Failure)
    assert failed.error == "RuntimeError: no way"
    assert batches == [0]
    monkeypatch.setenv("MENDED", "yes")
    assert isinstance(work_if_free(job), Result)
    assert batches == [0, 0, 5, 10, 15]
