from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation import evaluate as evaluation
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation, evaluate
from robustbench_cli.benchmarks.evaluation.partial_results import PartialResults
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


@pytest.mark.parametrize("spoil", ["damaged", "empty", "another version", "other images"])
def test_a_piece_that_does_not_fit_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    """It is found again."""
    model, images, labels = NoiseLayer(0.0), torch.rand(IMAGES, 1, 4, 4), torch.arange(IMAGES) % 3
    stored = PartialResults(tmp_path / "pieces", images=True)
    alone = evaluate(model, images, labels, attack=PGD(steps=3), eps=0.1, partial_results=stored)
    path = tmp_path / "pieces" / "8.piece"
    if spoil in {"damaged", "empty"}:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if spoil == "damaged" else b"")
    elif spoil == "another version":
        monkeypatch.setattr(stored, "_version", "0")
    else:
        path.write_bytes((tmp_path / "pieces" / "0.piece").read_bytes())
    ran: list[int] = []

    class Counted(PGD):
        def run(self, *given: Any) -> Tensor:
            ran.append(len(given[1]))
            return super().run(*given)

    same(evaluate(model, images, labels, attack=Counted(steps=3), eps=0.1, partial_results=stored), alone)
    assert ran == ([8, 8, 4] if spoil == "another version" else [8])


def test_no_flipped_bit_is_read(tmp_path: Path) -> None:
    """In any byte of the file: a piece that is not as it was written is none, and no number comes of it."""
    model, images, labels = NoiseLayer(0.0), torch.rand(IMAGES, 1, 4, 4), torch.arange(IMAGES) % 3
    stored = PartialResults(tmp_path, images=False)
    evaluate(model, images, labels, attack=PGD(steps=1), eps=0.1, partial_results=stored)
    content = (tmp_path / "8.piece").read_bytes()
    places = torch.arange(8, 16)
    assert stored.read(8, places, images[8:16]) is not None
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "8.piece").write_bytes(damaged)
        assert stored.read(8, places, images[8:16]) is None


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
