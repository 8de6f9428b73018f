from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation import evaluate as evaluation
from robustbench_cli.benchmarks.evaluation import partial_results
from robustbench_cli.benchmarks.evaluation.context import RunContext
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation, evaluate
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions
from robustbench_cli.benchmarks.evaluation.partial_results import PartialResults, division, shared_batch
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.execution.worker import work
from robustbench_cli.benchmarks.store.records import Failure, Result
from robustbench_cli.benchmarks.store.store import PARTIAL_RESULTS, SEARCHES, Store

from ..conftest import spec

IMAGES = 20


class NoiseLayer(nn.Module):
    """Linear logits of images with noise on them, or without."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.sigma = sigma

    def forward(self, images: Tensor) -> Tensor:
        noise = self.sigma * torch.randn_like(images) if self.sigma else 0.0
        logits: Tensor = self.linear((images + noise).flatten(1))
        return logits


class CutOff(PGD):
    """PGD that is cut off at its third batch, and that nothing else tells from it."""

    def __repr_name__(self) -> str:
        return "PGD"

    def run(self, *given: Any) -> Tensor:
        if len(BATCHES) == 2:
            raise KeyboardInterrupt
        BATCHES.append(len(given[1]))
        return super().run(*given)


BATCHES: list[int] = []


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batches of eight, eight and four images."""
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 8)
    BATCHES.clear()


def same(one: Evaluation, other: Evaluation) -> None:
    """All but the time."""
    for name, array in asdict(one.outcomes).items():
        np.testing.assert_array_equal(array, getattr(other.outcomes, name))
    assert (one.flags, one.forwards, one.backwards) == (other.flags, other.forwards, other.backwards)
    assert torch.equal(one.perturbed, other.perturbed)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
@pytest.mark.parametrize("words", [{}, {"targeted": "all"}, {"accounting": "single-draw", "repeats": 1}])
def test_what_was_cut_off_goes_on_where_it_was(tmp_path: Path, sigma: float, words: dict[str, Any]) -> None:
    """What comes of it is what comes of a run in one go, draws, passes and flags included; only one batch is run again."""
    model = NoiseLayer(sigma)
    images, labels = torch.rand(IMAGES, 1, 4, 4), torch.arange(IMAGES) % 3
    given: dict[str, Any] = {"eps": 0.1, "eot": 2, "seed": 5} | words
    alone = evaluate(model, images, labels, attack=PGD(steps=3), **given)
    stored = PartialResults(tmp_path / "pieces", images=True)
    if words.get("targeted") != "all":
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, images, labels, attack=CutOff(steps=3), partial_results=stored, **given)
        assert BATCHES == [8, 8]
    else:
        evaluate(model, images[:8], labels[:8], attack=PGD(steps=3), **given)
    seen: list[int] = []
    same(
        evaluate(model, images, labels, attack=PGD(steps=3), partial_results=stored, progress=seen.append, **given),
        alone,
    )
    assert seen == [8, 16, 20]
    # A second time there is nothing left to attack.
    BATCHES[:] = [0, 0]
    same(evaluate(model, images, labels, attack=CutOff(steps=3), partial_results=stored, **given), alone)


class Counted(PGD):
    """PGD that counts the images of its batches, and that nothing else tells from it."""

    def __repr_name__(self) -> str:
        return "PGD"

    def run(self, *given: Any) -> Tensor:
        BATCHES.append(len(given[1]))
        return super().run(*given)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
@pytest.mark.parametrize("words", [{}, {"targeted": "all"}, {"accounting": "single-draw", "repeats": 1}])
@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("after_another", [False, True])
def test_shared_batches_give_what_one_process_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sigma: float, words: dict[str, Any], size: int, after_another: bool
) -> None:
    """To the bit where its batches are the same, draws, passes and flags included, whichever process takes which batch.

    Each batch is attacked once; the images that an earlier attack broke are left out.
    """
    monkeypatch.setattr(partial_results, "LEAST_SHARED", size)
    if after_another and words.get("targeted"):
        words = {}
    model = NoiseLayer(sigma)
    images, labels = torch.rand(IMAGES, 1, 4, 4), torch.arange(IMAGES) % 3
    given: dict[str, Any] = {"eps": 0.1, "eot": 2, "seed": 5} | words
    earlier = evaluate(model, images, labels, attack=PGD(steps=1), **given | {"eps": 0.03}).outcomes
    context = RunContext(
        earlier=earlier if after_another else None, partial_results=PartialResults(tmp_path / "a", images=True)
    )
    attacked = int((~earlier.broken()).sum()) if after_another else IMAGES
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", shared_batch(attacked, 8))
    alone = evaluate(model, images, labels, attack=PGD(steps=3), earlier=context.earlier, **given)
    options = EvaluationOptions(**given)
    done: list[int] = []

    def share(first: int) -> bool:
        """What one of two processes does, which finds every other batch taken."""
        numbers = iter(range(first, 100))

        @contextmanager
        def take(batch: range) -> Iterator[bool]:
            yield next(numbers) % 2 == 0

        shared = replace(context, progress=done.append)
        return evaluation.attack_free_batches(
            copy.deepcopy(model), images, labels, attack=Counted(steps=3), options=options, context=shared, take=take
        )

    BATCHES.clear()
    finished = [share(0), share(1), share(0)]
    goals = 2 if words.get("targeted") else 1
    assert finished[-1]
    assert sum(BATCHES) == goals * attacked
    assert max(BATCHES) <= 5
    assert done == sorted(done)
    assert done[-1] == IMAGES
    BATCHES[:] = [0, 0]
    joined = evaluate(model, images, labels, attack=CutOff(steps=3), options=options, context=context)
    same(joined, alone)


def test_what_no_process_may_take_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is attacked or stored; a single batch is left to the whole evaluation."""
    monkeypatch.setattr(partial_results, "LEAST_SHARED", 5)
    model, images, labels = NoiseLayer(0.0), torch.rand(IMAGES, 1, 4, 4), torch.arange(IMAGES) % 3
    stored = PartialResults(tmp_path / "pieces", images=False)

    def share(count: int, *, free: bool) -> bool:
        return evaluation.attack_free_batches(
            model,
            images[:count],
            labels[:count],
            attack=Counted(steps=1),
            options=EvaluationOptions(eps=0.1),
            context=RunContext(partial_results=stored),
            take=lambda batch: nullcontext(free),
        )

    assert not share(IMAGES, free=False)
    assert share(5, free=True)
    assert BATCHES == []
    assert stored.batches == []


@pytest.mark.parametrize("size", [3, 5, 20])
def test_batches_of_another_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """An evaluation whose batches were larger or smaller goes on; only what is between them is attacked."""
    model, images, labels = NoiseLayer(0.2), torch.rand(IMAGES, 1, 4, 4), torch.arange(IMAGES) % 3
    alone = evaluate(model, images, labels, attack=PGD(steps=3), eps=0.1)
    stored = PartialResults(tmp_path / "pieces", images=True)
    evaluate(model, images, labels, attack=PGD(steps=3), eps=0.1, partial_results=stored)
    (tmp_path / "pieces" / "8-16.piece").unlink()
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", size)
    resumed = evaluate(model, images, labels, attack=Counted(steps=3), eps=0.1, partial_results=stored)
    np.testing.assert_array_equal(resumed.outcomes.perturbed, alone.outcomes.perturbed)
    # Products of matrices of another height are rounded differently.
    torch.testing.assert_close(resumed.perturbed, alone.perturbed, rtol=0, atol=1e-6)
    assert (resumed.flags, resumed.forwards) == (alone.flags, alone.forwards)
    assert sum(BATCHES) == 8
    assert max(BATCHES) <= size


def test_every_division_covers_every_image_once() -> None:
    """Beside all stored batches that do not overlap; those of its own size change nothing."""
    for total, size, start, stop in itertools.product(range(9), range(1, 5), range(9), range(9)):
        batches = division(total, size, [range(start, stop)])
        assert [position for batch in batches for position in batch] == list(range(total))
        assert (range(start, stop) in batches) == (start < stop <= total)
        assert all(0 < len(batch) <= size for batch in batches if batch != range(start, stop))
        plain = division(total, size)
        assert all(division(total, size, [batch]) == plain for batch in plain)
    for total in range(1, 5000, 7):
        batches = division(total, shared_batch(total, 512))
        assert max(map(len, batches)) <= 512
        assert max(map(len, batches)) - len(batches[-1]) < len(batches)
        assert len(batches) == 1 or min(map(len, batches)) >= 50
    assert len(division(1000, shared_batch(1000, 512))) >= 4
    assert len(division(1000, shared_batch(1000, 40))) == 25


@pytest.mark.parametrize("spoil", ["damaged", "empty", "another version", "other images"])
def test_a_piece_that_does_not_fit_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    """It is found again."""
    model, images, labels = NoiseLayer(0.0), torch.rand(IMAGES, 1, 4, 4), torch.arange(IMAGES) % 3
    stored = PartialResults(tmp_path / "pieces", images=True)
    alone = evaluate(model, images, labels, attack=PGD(steps=3), eps=0.1, partial_results=stored)
    path = tmp_path / "pieces" / "8-16.piece"
    if spoil in {"damaged", "empty"}:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if spoil == "damaged" else b"")
    elif spoil == "another version":
        monkeypatch.setattr(partial_results, "_version", lambda: "0")
    else:
        path.write_bytes((tmp_path / "pieces" / "0-8.piece").read_bytes())
    BATCHES.clear()
    same(evaluate(model, images, labels, attack=Counted(steps=3), eps=0.1, partial_results=stored), alone)
    assert ([8, 8, 4] if spoil == "another version" else [8]) == BATCHES


def test_no_flipped_bit_is_read(tmp_path: Path) -> None:
    """In any byte of the file: a piece that is not as it was written is none, and no number comes of it."""
    model, images, labels = NoiseLayer(0.0), torch.rand(IMAGES, 1, 4, 4), torch.arange(IMAGES) % 3
    stored = PartialResults(tmp_path, images=False)
    evaluate(model, images, labels, attack=PGD(steps=1), eps=0.1, partial_results=stored)
    content = (tmp_path / "8-16.piece").read_bytes()
    places = torch.arange(8, 16)
    assert stored.read(range(8, 16), places, images[8:16]) is not None
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "8-16.piece").write_bytes(damaged)
        assert stored.read(range(8, 16), places, images[8:16]) is None


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    """And the evaluation goes on."""
    (tmp_path / "pieces").write_text("")
    model, images, labels = NoiseLayer(0.0), torch.rand(IMAGES, 1, 4, 4), torch.arange(IMAGES) % 3
    stored = PartialResults(tmp_path / "pieces", images=False)
    given: dict[str, Any] = {"attack": PGD(steps=1), "eps": 0.1}
    same(
        evaluate(model, images, labels, partial_results=stored, **given),
        evaluate(model, images, labels, **given),
    )


@pytest.mark.parametrize("attack", ["pgd", "fmn"])
def test_a_killed_cell_costs_a_batch(jobs: Callable[..., list[Job]], tmp_path: Path, attack: str) -> None:
    """Of a search too; the row is that of a cell that nobody killed, and no piece is left when it is stored."""
    (job,) = jobs(spec(attack, steps=3), eps=("0.1",))
    undisturbed = work(job.model_copy(update={"store": tmp_path / "alone"}))
    assert isinstance(undisturbed, Result)

    def interrupt(done: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(job, progress=interrupt)
    folder = job.store / (SEARCHES if attack == "fmn" else "") / PARTIAL_RESULTS
    assert len(list(folder.glob("*/*.piece"))) == 2
    resumed = work(job)
    assert not isinstance(resumed, Failure)
    assert resumed.model_copy(update={"seconds": 0.0}) == undisturbed.model_copy(update={"seconds": 0.0})
    assert not list(folder.glob("*/*"))
    assert list(Store(job.store).results()) == [resumed]
