"""Simulated stores: the results that a sweep over many models would store, without any attack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.eps import Eps, parse_eps
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.outcomes import Integers, Outcomes, summarize
from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import RequestedCell, Result, sha256
from robustbench_cli.benchmarks.store.store import Store
from robustbench_cli.defenses import registry as defenses

__all__ = ["CELLS_OF_MODEL", "simulate_store"]

_ATTACKS = ("fgsm", "pgd", "cw-pgd", "mi-fgsm", "di-fgsm", "apgd-ce", "apgd-dlr", "apgd-t", "square", "nes")
_RADII = tuple(map(parse_eps, ("2/255", "4/255", "8/255", "16/255")))
CELLS_OF_MODEL = len(_ATTACKS) * len(_RADII)
"""The number of results of each model in a simulated store."""

_CLASSES = 10
_PIXELS = 784


def simulate_store(folder: Path, *, cells: int, images: int) -> None:
    """Fills a store with the results of ten attacks at four radii on one undefended model and on many defended ones.

    Each image of a model has a smallest perturbation that breaks it, and each attack needs a larger one.

    Args:
        folder: The store's folder.
        cells: The number of results, a multiple of :data:`CELLS_OF_MODEL`.
        images: The number of images of each.
    """
    store = Store(folder)
    specs = [method_spec(attacks, name, {}).spec for name in _ATTACKS]
    requested = []
    for model in range(cells // CELLS_OF_MODEL):
        results = [*_results(model, specs, images)]
        store.publish_all(results)
        requested += [
            RequestedCell(cell=entry.cell, eps=entry.eps, checkpoint=entry.checkpoint) for entry, _ in results
        ]
    store.request(requested)


def _results(model: int, specs: list[MethodSpec], images: int) -> Iterator[tuple[Result, bytes]]:
    """The results of one model, each with the file of its outcomes."""
    labels = np.random.default_rng(0).integers(_CLASSES, size=images)
    random = np.random.default_rng([1, model])
    clean = np.where(random.random(images) < 0.95, labels, (labels + 1) % _CLASSES)
    # Some models are robust, and others hardly.
    nearest = random.lognormal(np.log(random.uniform(0.005, 0.05)), 0.7, size=images)
    for spec in specs:
        distance = nearest * random.lognormal(0.1, 0.1, size=images)
        for eps in _RADII:
            outcomes = _outcomes(labels, clean, distance, eps.value)
            yield _result(_cell(model, spec, eps, images), eps, outcomes)


def _outcomes(labels: Integers, clean: Integers, distance: Floats, eps: float) -> Outcomes:
    """The outcomes of an attack that breaks the images at given distances, where the radius allows them."""
    broken = distance <= eps
    size = np.where(broken, distance, eps)[None]
    perturbed = np.where(broken & (clean == labels), (labels + 2) % _CLASSES, clean)
    return Outcomes(
        labels=labels,
        targets=np.zeros((0, len(labels)), dtype=np.int64),
        clean=clean[None],
        clean_survival=(clean == labels).astype(np.float64),
        perturbed=perturbed[None, None],
        survival=(perturbed == labels).astype(np.float64)[None],
        distance=size,
        l2=(size * _PIXELS**0.5).astype(np.float32).astype(np.float64),
        linf=size.astype(np.float32).astype(np.float64),
    )


def _cell(model: int, spec: MethodSpec, eps: Eps, images: int) -> Cell:
    """The cell of an attack on a model; the first model has no defense."""
    quality = {"quality": 1 + model % 100}
    return Cell(
        dataset="fashion-mnist",
        data=sha256(b"images"),
        n=images,
        model="small-cnn",
        checkpoint=sha256(f"model {model}".encode()),
        defenses=(method_spec(defenses, "jpeg", quality).spec,) if model else (),
        attack=spec,
        norm="linf",
        eps=eps.value,
        targeted="no",
        eot=1,
        repeats=1,
        seed=0,
    )


def _result(cell: Cell, eps: Eps, outcomes: Outcomes) -> tuple[Result, bytes]:
    """The result of a cell, with the file of its outcomes."""
    content = outcomes.to_bytes()
    result = Result(
        cell=cell,
        eps=eps.text,
        checkpoint=f"models/{cell.checkpoint[:8]}.safetensors",
        summary={name: None if np.isnan(value) else value for name, value in summarize(outcomes).items()},
        flags=(),
        forwards=41 * cell.n,
        backwards=0 if cell.attack.name in {"square", "nes"} else 40 * cell.n,
        seconds=1.5,
        device="cpu",
        versions={"advdef": "0.1.0", "torch": "2.9.0"},
        outcomes_sha256=sha256(content),
    )
    return result, content
