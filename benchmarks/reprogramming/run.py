"""Reprograms a defended model, unless the store has the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.slice import Slice, first_examples
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.benchmarks.devices import current, device_name
from robustbench_cli.benchmarks.evaluation.statistics.intervals import mean_interval
from robustbench_cli.benchmarks.reprogramming.program import (
    Reprogramming,
    ReprogrammingOptions,
    Task,
    TrainedProgram,
    reprogram,
)
from robustbench_cli.benchmarks.reprogramming.records import RECORDS, ReprogrammedModel
from robustbench_cli.benchmarks.store.cell import content_hash
from robustbench_cli.core.atomic_write import display_path
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.trainer import TrainingProgress

__all__ = ["reprogram_model"]


def reprogram_model(
    defended: DefendedModel,
    task: Dataset,
    method: Reprogramming,
    options: ReprogrammingOptions,
    *,
    n: int,
    store: Path,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> ReprogrammedModel:
    """Reprograms a defended model, or reads the result from the store.

    Args:
        defended: The model.
        task: The data set that the program makes it classify.
        method: The parameters of the attack.
        options: The draws, the seed and the device.
        n: The number of test images.
        store: The folder of the store; the results lie in its folder ``reprogramming``.
        progress: Called after each epoch.

    Raises:
        UserError: The task does not fit the model, its first training images lack a class, or the store cannot be read
            or written.
    """
    if task.classes > defended.classes:
        raise UserError(
            f"{task.name} has {task.classes} classes, and {defended.path} only {defended.classes}: give a task of fewer"
        )
    test, train = first_examples(task.split("test"), n), task.split("train")
    _require_all_classes(task, train, method.examples)
    options = replace(options, eot=defended.eot(options.eot), repeats=defended.repeats(options.repeats))
    cell = _cell_id(defended, method, options, test, train)
    path = RECORDS.file(store, cell)
    if path.is_file():
        return RECORDS.read(path)
    with current(options.device):
        trained = reprogram(
            defended.load(),
            defended.shape,
            defended.classes,
            Task(train=train, images=test.images, labels=test.labels),
            method,
            options,
            progress=progress,
        )
    commonest = float(test.labels.bincount().max()) / len(test)
    row = ReprogrammedModel(
        **_describe(defended, method, options),
        **_figures(trained),
        task=task.name,
        n=len(test),
        commonest_class=commonest,
        cell=cell,
    )
    RECORDS.write(store, row)
    return row


def _require_all_classes(task: Dataset, train: Split, most: int) -> None:
    """Checks that the training images that are used cover all classes of the training set.

    A program cannot learn a class that it never sees. The low accuracy would look like protection by the model.

    Raises:
        UserError: A class is missing.
    """
    used = min(most, len(train))
    used_classes, all_classes = (len(labels.unique()) for labels in (train.labels[:used], train.labels))
    if used_classes < all_classes:
        raise UserError(
            f"the first {used} training images of {task.name} are of {used_classes} of {all_classes} classes: give more of "
            "them with reprogramming.examples"
        )


def _cell_id(
    defended: DefendedModel, method: Reprogramming, options: ReprogrammingOptions, test: Slice, train: Split
) -> str:
    """The content hash of everything that the result depends on."""
    identity = {
        "version": 1,
        "checkpoint": defended.identity,
        "reprogramming": MethodSpec.of(method, name="reprogramming").identity,
        "test": test.sha256,
        "train": first_examples(train, min(method.examples, len(train))).sha256,
        "eot": options.eot,
        "repeats": options.repeats,
        "seed": options.seed,
    }
    return content_hash(identity)


def _describe(defended: DefendedModel, method: Reprogramming, options: ReprogrammingOptions) -> dict[str, Any]:
    """The columns that describe the model and the attack."""
    device = options.device
    return {
        "dataset": defended.dataset,
        "model": defended.model,
        "checkpoint": display_path(defended.path),
        "defense": defended.defense,
        "reprogramming": MethodSpec.of(method, name="reprogramming").label,
        "eot": options.eot,
        "repeats": options.repeats,
        "seed": options.seed,
        "device": device_name(device),
        "versions": versions(),
    }


def _figures(trained: TrainedProgram) -> dict[str, Any]:
    """The columns with the measured figures."""
    low, high = mean_interval(trained.correct)
    return {
        "reprogrammed_accuracy": trained.accuracy,
        "reprogrammed_accuracy_low": low,
        "reprogrammed_accuracy_high": high,
        "forwards": trained.forwards,
        "backwards": trained.backwards,
        "seconds": trained.seconds,
    }
