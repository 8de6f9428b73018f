"""The files and folders that a suite names and that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_cli.benchmarks.weights.file_names import require_existing
from robustbench_cli.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.suites.config import SuiteConfig

__all__ = ["missing_files"]

_WITH_PATH = frozenset({"npz", "imagefolder", "imagenet", "imagenet-c", "cifar10-c", "cifar100-c"})
"""The data sets whose argument is a path; a list, since their classes would import torch."""


def missing_files(config: SuiteConfig) -> Iterator[str]:
    """The checkpoints and the data of a suite that are not there, each in one line with its file and line.

    Args:
        config: The suite.
    """
    checkpoints: list[tuple[str, object]]
    checkpoints = [(entry.location, entry.checkpoint) for chain in config.defenses for entry in chain]
    for entry in config.entries:
        ensemble = entry.parameters.get("ensemble")
        files = [entry.parameters.get("surrogate"), *(ensemble if isinstance(ensemble, list) else [])]
        checkpoints += [(entry.location, file) for file in files]
    datasets: list[tuple[str, object]]
    datasets = [(config.location("dataset", number), name) for number, name in enumerate(config.dataset or ())]
    for number, recipe in enumerate(config.train):
        location = config.location("train", number)
        checkpoints.append((location, recipe.get("pseudo_labels")))
        datasets.append((location, recipe.get("extra")))
    for location, path in checkpoints:
        # A list is several surrogates, or a mistake that the sweep names.
        if isinstance(path, str | Path) and (problem := _missing_checkpoint(Path(path))):
            yield f"{location}: {problem}"
    for location, name in datasets:
        if isinstance(name, str) and (problem := _missing_data(name)):
            yield f"{location}: {problem}"


def _missing_checkpoint(path: Path) -> str:
    """What is wrong with the path of a checkpoint; empty for nothing."""
    try:
        require_existing(path)
    except UserError as error:
        return str(error)
    return ""


def _missing_data(name: str) -> str:
    """What is wrong with the path in the name of a data set; empty for nothing, or a name without a path."""
    kind, _, argument = name.partition("?")[0].partition(":")
    path = Path(argument).expanduser()
    if kind not in _WITH_PATH or not argument or path.exists():
        return ""
    is_file = kind == "npz"
    near = [other.name for other in path.parent.glob("*.npz" if is_file else "*/")]
    hint = f": {did_you_mean(path.name, near)}" if near else ""
    return f"no {'file' if is_file else 'folder'} {path} for {kind}{hint}"
