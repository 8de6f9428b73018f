"""Cells, outcomes and results made up for a test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes, summarize
from robustbench_cli.benchmarks.execution.job import Job, JobOptions
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.suites.suite import AttackChoice, Suite, expand, usual_norm
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.defenses import registry as defenses

if TYPE_CHECKING:
    from .fake_hub import FakeHub

ATTACKED = 20
"""Images that the jobs of :func:`jobs` attack."""

MakeCell = Callable[..., Cell]
MakeOutcomes = Callable[..., Outcomes]
MakeResult = Callable[..., tuple[Result, bytes]]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture
def make_cell() -> MakeCell:
    """A cell, of which a test says what matters to it."""

    def make(**changes: Any) -> Cell:
        usual: dict[str, Any] = {
            "dataset": "digits",
            "data": "d" * 64,
            "n": 4,
            "model": "small-cnn",
            "checkpoint": "c" * 64,
            "defenses": (),
            "attack": MethodSpec(name="pgd", parameters={"steps": 40, "step_size": None}),
            "norm": "linf",
            "eps": 8 / 255,
            "targeted": "no",
            "eot": 1,
            "repeats": 1,
            "seed": 0,
        }
        return Cell(**usual | changes)

    return make


@pytest.fixture
def make_outcomes() -> MakeOutcomes:
    """Outcomes of one untargeted attack on images of class 0: shares of draws that were right, clean and attacked."""

    def make(*, clean: list[int], robust: list[int], draws: int = 1, distance: float | list[float] = 0.1) -> Outcomes:
        images = len(clean)
        order = np.arange(draws)[:, None]
        far = np.broadcast_to(np.asarray(distance, dtype=np.float64), (1, images)).copy()
        return Outcomes(
            labels=np.zeros(images, dtype=np.int64),
            targets=np.zeros((0, images), dtype=np.int64),
            clean=(order >= np.array(clean)).astype(np.int64),
            clean_survival=np.array(clean) / draws,
            perturbed=(order >= np.array(robust)).astype(np.int64)[None],
            survival=np.array(robust)[None] / draws,
            distance=far,
            l2=2 * far,
            linf=far,
        )

    return make


@pytest.fixture
def make_result() -> MakeResult:
    """The result of a cell, with the file of its outcomes."""

    def make(cell: Cell, outcomes: Outcomes, **changes: Any) -> tuple[Result, bytes]:
        content = outcomes.to_bytes()
        summary = {key: None if np.isnan(value) else value for key, value in summarize(outcomes).items()}
        usual: dict[str, Any] = {
            "cell": cell,
            "eps": "" if cell.eps is None else f"{cell.eps:g}",
            "checkpoint": "model.safetensors",
            "summary": summary,
            "flags": (),
            "forwards": 100,
            "backwards": 50,
            "seconds": 1.5,
            "device": "cpu",
            "versions": {"torch": "2.15.0"},
            "outcomes_sha256": hashlib.sha256(content).hexdigest(),
        }
        return Result(**usual | changes), content

    return make


@pytest.fixture
def cache() -> Callable[..., ModelCache]:
    """Makes model caches with short trainings."""

    def make(dataset: str = "digits", seed: int = 0, **recipe: Any) -> ModelCache:
        return ModelCache(
            dataset=dataset,
            data_dir=None,
            device=torch.device("cpu"),
            seed=seed,
            recipe={"epochs": 1} | recipe,
        )

    return make


@pytest.fixture
def hrs() -> MethodSpec:
    """A small switching defense."""
    return method_spec(defenses, "hrs", {"channels": [2, 2]}).spec


@pytest.fixture
def defended(cache: Callable[..., ModelCache]) -> DefendedModel:
    """A briefly trained network."""
    prepared = cache(epochs=8)
    return prepared.trained(prepared.training())


@pytest.fixture
def jobs(tmp_path: Path, defended: DefendedModel) -> Callable[..., list[Job]]:
    """The jobs of attacks on that network."""

    def expanded(
        *specs: MethodSpec,
        eps: tuple[str, ...] = (),
        n: int = ATTACKED,
        cascade: bool = False,
        subject: DefendedModel = defended,
        batch_size: int | None = None,
        split: bool = False,
    ) -> list[Job]:
        choices = []
        for spec in specs:
            kind: Any = attacks.load(spec.name)
            choices.append(
                AttackChoice(
                    spec=spec,
                    norms=kind.norms,
                    minimal_norm=kind.minimal_norm,
                    needs_gradients=kind.access == "gradients",
                )
            )
        norm = usual_norm([choice.norms for choice in choices])
        radii = [parse_eps(text) for text in eps]
        suite = Suite(dataset="digits", n=n, attacks=choices, norm=norm, eps=radii, cascade=cascade)
        return expand(
            suite,
            [subject],
            examples=first_examples(load_dataset("digits").split("test"), n),
            usual_eps="0.15",
            options=JobOptions(
                store=tmp_path / "store",
                data_dir=None,
                device="cpu",
                batch_size=batch_size,
                split=split,
            ),
        )

    return expanded


def spec(name: str, **parameters: Any) -> MethodSpec:
    """An attack as data."""
    return method_spec(attacks, name, parameters).spec


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A Hugging Face Hub on this machine, and an empty cache of its library."""
    from .fake_hub import served_hub

    with served_hub(tmp_path / "hub") as fake:
        yield fake
