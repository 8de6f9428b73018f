"""The learning curves in the training records of checkpoints, read without torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from robustbench_cli.benchmarks.store.records import Result

__all__ = ["MEASURED", "LearningCurve", "learning_curves"]

MEASURED = {
    "held_out_robust": "robust, held-out",
    "held_out_clean": "clean, held-out",
    "robust": "robust, training",
    "clean": "clean, training",
}
"""The accuracies of a point of a curve by name, with their labels on the page."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """The accuracies of one network after each epoch.

    Attributes:
        label: The defense and the name of the training.
        points: For each epoch its number, the loss, and accuracies in [0, 1] by their names in :data:`MEASURED`.
    """

    label: str
    points: Sequence[Mapping[str, float]]


def learning_curves(results: Sequence[Result]) -> list[LearningCurve]:
    """The learning curves of all checkpoints of results; a checkpoint that is gone, or that has no accuracies, has none.

    Args:
        results: Each names the path that its checkpoint had when the cell ran.
    """
    files = {result.checkpoint: result.cell.defense for result in results}
    return [curve for file, defense in files.items() for curve in _curves(Path(file), defense)]


def _curves(path: Path, defense: str) -> Iterator[LearningCurve]:
    for stage in _training(path).get("stages", []):
        for name, record in stage["trained"].items():
            points = record.get("curve")
            if not isinstance(points, list) or len(points) < 2 or not all(map(_is_measured, points)):
                continue
            if all(point["epoch"] < after["epoch"] for point, after in itertools.pairwise(points)):
                yield LearningCurve(label=f"{defense}, {name}", points=points)


def _training(path: Path) -> dict[str, Any]:
    """The training record of a checkpoint; empty for a file that has none, and for one that is not there."""
    # A path that a store names may be anything, such as a pipe.
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, "np") as file:
            training: dict[str, Any] = json.loads((file.metadata() or {})["advdef"])["training"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return {}
    stages = training.get("stages", []) if isinstance(training, dict) else []
    is_record = isinstance(stages, list) and all(
        isinstance(stage, dict)
        and isinstance(stage.get("trained"), dict)
        and all(isinstance(record, dict) for record in stage["trained"].values())
        for stage in stages
    )
    return training if isinstance(training, dict) and is_record else {}


def _is_measured(point: Any) -> bool:
    """Whether a point has an epoch and a held-out accuracy, and all its accuracies are in [0, 1]."""
    return (
        isinstance(point, dict)
        and "held_out_clean" in point
        and isinstance(point.get("epoch"), int)
        and 0 < point["epoch"] < 10**6
        and all(isinstance(point[name], int | float) and 0 <= point[name] <= 1 for name in MEASURED if name in point)
    )
