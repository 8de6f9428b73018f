"""A store with scored draws that a test makes up: nothing is trained or attacked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes, summarize
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.store import Store

PGD = MethodSpec(name="pgd", parameters={"steps": 40, "step_size": None})
FGSM = MethodSpec(name="fgsm", parameters={})
HRS = MethodSpec(name="hrs", parameters={"channels": [5, 5]})
JPEG = MethodSpec(name="jpeg", parameters={"quality": 75})


def add(folder: Path, right: Any, *, shared: bool = False, flags: tuple[str, ...] = (), **cell: Any) -> Result:
    """Stores a cell of which each attacked image is right in some draws, and each clean image in all.

    Args:
        folder: The store.
        right: ``(R, N)``, whether each draw is right.
        shared: Whether the draws are passes.
        flags: The row's flags.
        **cell: Fields of the cell.
    """
    right = np.atleast_2d(np.asarray(right, dtype=bool))
    draws, images = right.shape
    distance = np.full((1, images), 0.1)
    outcomes = Outcomes(
        labels=np.zeros(images, dtype=np.int64),
        targets=np.zeros((0, images), dtype=np.int64),
        clean=np.zeros((draws, images), dtype=np.int64),
        clean_survival=np.ones(images),
        perturbed=(~right).astype(np.int64)[None],
        survival=right.mean(axis=0)[None] - 1e-6,
        distance=distance,
        l2=distance,
        linf=distance,
        draws_shared=np.asarray(shared),
    )
    usual: dict[str, Any] = {
        "dataset": "digits",
        "data": "d" * 64,
        "n": images,
        "model": "small-cnn",
        "defenses": (),
        "attack": PGD,
        "norm": "linf",
        "eps": 0.1,
        "targeted": "no",
        "eot": 1,
        "repeats": draws,
        "seed": 0,
    }
    fields = usual | cell
    fields.setdefault("checkpoint", hashlib.sha256(repr(fields["defenses"]).encode()).hexdigest())
    content = outcomes.to_bytes()
    result = Result(
        cell=Cell(**fields),
        eps=f"{fields['eps']:g}",
        checkpoint="model.safetensors",
        summary={key: None if np.isnan(value) else value for key, value in summarize(outcomes).items()},
        flags=flags,
        forwards=100,
        backwards=50,
        seconds=1.0,
        device="cpu",
        versions={},
        outcomes_sha256=hashlib.sha256(content).hexdigest(),
    )
    Store(folder).publish(result, content)
    return result
