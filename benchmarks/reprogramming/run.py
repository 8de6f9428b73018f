"""Adversarial reprogramming: a program in front of a model makes it do a task that it was not trained for."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.draws import Draws, EOTChoice
from robustbench_cli.attacks.base.models.freezing import placed
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.rng import seed_from
from robustbench_cli.benchmarks.checkpoints.checkpoint import versions
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.devices import automatic_batch_size, current, keep_freed_memory
from robustbench_cli.benchmarks.evaluation.evaluate import predict
from robustbench_cli.benchmarks.evaluation.statistics import mean_interval
from robustbench_cli.benchmarks.reprogramming.program import Program, Reprogramming
from robustbench_cli.benchmarks.store.store import REPROGRAMMING, encoded, read_record, stale_temporary_files
from robustbench_cli.core.atomic_write import display_path, write_atomically
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Examples, Trainer, TrainingProgress

__all__ = ["Reprogrammed", "ReprogrammedModel", "leftovers", "reprogram", "reprogrammed", "stored", "take"]


@dataclass(frozen=True, kw_only=True)
class Reprogrammed:
    """How well a model does a task that it was made to do.

    Attributes:
        program: What stands before it, trained.
        right: ``(n,)``: of each test image, the share of draws in which the deployed rule gave the task's class.
        forwards: Images passed through the model in training, in passes of one draw.
        backwards: The same back to its input.
        seconds: Wall time.
    """

    program: Program
    right: NDArray[np.float64]
    forwards: int
    backwards: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """The mean over images and draws: low where the model is well protected."""
        return float(self.right.mean())


def reprogram(
    model: nn.Module,
    shape: tuple[int, int, int],
    classes: int,
    *,
    train: Examples,
    images: Tensor,
    labels: Tensor,
    method: Reprogramming,
    eot: EOTChoice = 1,
    repeats: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> Reprogrammed:
    """Trains a program for a model, and scores it on test images by the deployed rule, on fresh draws.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``. It is left as it was.
        shape: ``(C, H, W)``.
        classes: K.
        train: Of the task.
        images: ``(n, c, h, w)`` in [0, 1]: what it is tested on.
        labels: ``(n,)``: the task's classes.
        method: The parameters.
        eot: The draws behind every gradient; see :data:`~robustbench_cli.attacks.base.gradients.draws.EOTChoice`.
        repeats: Draws that score an image.
        seed: Of the program's weights, of the order of training and of all draws.
        device: Where to compute.
        batch_size: Rows that pass through the model at once; chosen for the device where not given.
        progress: Called after each epoch.

    Raises:
        UserError: The task has more classes than the model, or images that are too large.
    """
    device = torch.device(device)
    if int(labels.max()) >= classes:
        raise UserError(f"the task has more classes than the model's {classes}: give a task of as many or fewer")
    started = time.perf_counter()
    keep_freed_memory()
    recipe = Recipe(epochs=method.epochs, lr=method.lr, weight_decay=0)
    trainer = Trainer(_First(train, method.examples), recipe, seed=seed, device=device, progress=progress)
    probe = torch.linspace(0, 1, 8 * math.prod(shape), device=device).reshape(8, *shape)
    with placed(model, device, probe):
        size = BatchSize(batch_size or automatic_batch_size(device, shape))
        source = MeasuredModel(model, probe, size).source(eot, seed=seed)
        source.begin(seed_from(seed, "reprogramming"), torch.empty(0, dtype=torch.int64))

        def loss(program: nn.Module, batch: Tensor, truth: Tensor) -> Tensor:
            rows: Tensor = program(batch)
            wanted = (truth + method.shift) % classes
            logits, gradient = source.gradient(rows.detach(), wanted, _cross_entropy)
            value = functional.cross_entropy(logits.flatten(0, 1), wanted.repeat(len(logits)))
            # Its slope in the program is what the source's gradient at its output makes of it.
            through = (rows * gradient).sum() / len(rows)
            return value + through - through.detach()

        with trainer.draws("program"):
            _, channels, height, width = images.shape
            program = Program((channels, height, width), shape, kernel=method.kernel)
        trainer.fit(program, name="program", loss=loss)
        with torch.no_grad():
            inputs = torch.cat([program(part.to(device)).cpu() for part in images.split(512)])
    answers = predict(
        model, inputs, repeats=repeats, seed=seed_from(seed, "test"), device=device, batch_size=batch_size
    )
    right = answers == ((labels + method.shift) % classes).numpy()
    return Reprogrammed(
        program=program.cpu(),
        right=right.mean(0),
        forwards=round(source.forwards),
        backwards=round(source.backwards),
        seconds=time.perf_counter() - started,
    )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


class _First:
    """The first of some examples."""

    def __init__(self, examples: Examples, most: int) -> None:
        self._examples = examples
        self._count = min(most, len(examples))

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self._examples.batch(indices)


class ReprogrammedModel(BaseModel):
    """The stored result of a reprogramming: a row of its table.

    Attributes:
        dataset: What the model was trained on.
        model: Its name.
        checkpoint: Its file.
        defense: The label of its defenses.
        task: The data set that it was made to classify.
        reprogramming: The attack's label.
        eot: Draws behind a gradient.
        n: Test images of the task.
        repeats: Draws that scored each.
        seed: Of all that is random.
        reprogrammed_accuracy: Share of test images and draws given the task's class: low is well defended.
        reprogrammed_accuracy_low: Lower end of its 95 % interval.
        reprogrammed_accuracy_high: Upper end.
        commonest_class: Share of the test images that are of the commonest class, which asks for no skill.
        forwards: Images passed through the model in training, in passes of one draw.
        backwards: The same back to its input.
        seconds: Wall time.
        device: Where.
        cell: The content hash.
        versions: Of what computed it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str | None
    model: str
    checkpoint: str
    defense: str
    task: str
    reprogramming: str
    eot: Draws
    n: int
    repeats: int
    seed: int
    reprogrammed_accuracy: float
    reprogrammed_accuracy_low: float
    reprogrammed_accuracy_high: float
    commonest_class: float
    forwards: int
    backwards: int
    seconds: float
    device: str
    cell: str
    versions: dict[str, str]


def reprogrammed(
    defended: DefendedModel,
    task: Dataset,
    method: Reprogramming,
    *,
    eot: EOTChoice,
    n: int,
    repeats: int | None,
    seed: int,
    store: Path,
    device: torch.device,
    batch_size: int | None,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> ReprogrammedModel:
    """The result of a reprogramming, from the store where that has it already.

    Args:
        defended: The model.
        task: The data set that it is to classify.
        method: The parameters.
        eot: See :data:`~robustbench_cli.attacks.base.gradients.draws.EOTChoice`.
        n: Test images.
        repeats: See :func:`~.evaluation.resolve_repeats`.
        seed: See :func:`reprogram`.
        store: The folder of the store; results of this kind lie in ``reprogramming`` in it.
        device: See :func:`reprogram`.
        batch_size: See :func:`reprogram`.
        progress: See :func:`reprogram`.

    Raises:
        UserError: The task does not suit the model, the examples lack a class of it, or the store cannot be read or
            written.
    """
    if task.classes > defended.classes:
        raise UserError(
            f"{task.name} has {task.classes} classes, and {defended.path} only {defended.classes}: give a task of fewer"
        )
    spec = MethodSpec.of(method, name="reprogramming")
    test, train = first_examples(task.split("test"), n), task.split("train")
    used = min(method.examples, len(train))
    known, all_known = (len(labels.unique()) for labels in (train.labels[:used], train.labels))
    if known < all_known:
        # What it never saw it would not do, which must not pass for the model's protection.
        raise UserError(
            f"the first {used} training images of {task.name} are of {known} of {all_known} classes: give more of them with "
            "reprogramming.examples"
        )
    draws, times = defended.eot(eot), defended.repeats(repeats)
    identity = {
        "version": 1,
        "checkpoint": defended.identity,
        "reprogramming": spec.identity,
        "test": test.sha256,
        "train": first_examples(train, used).sha256,
        "eot": draws,
        "repeats": times,
        "seed": seed,
    }
    cell = hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:20]
    path = store / REPROGRAMMING / f"{cell}.json"
    if path.is_file():
        return _read(path)
    with current(device):
        result = reprogram(
            defended.load(),
            defended.shape,
            defended.classes,
            train=train,
            images=test.images,
            labels=test.labels,
            method=method,
            eot=draws,
            repeats=times,
            seed=seed,
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
    low, high = mean_interval(result.right)
    row = ReprogrammedModel(
        dataset=defended.dataset,
        model=defended.model,
        checkpoint=display_path(defended.path),
        defense=defended.defense,
        task=task.name,
        reprogramming=spec.label,
        eot=draws,
        n=len(test),
        repeats=times,
        seed=seed,
        reprogrammed_accuracy=result.accuracy,
        reprogrammed_accuracy_low=low,
        reprogrammed_accuracy_high=high,
        commonest_class=float(test.labels.bincount().max()) / len(test),
        forwards=result.forwards,
        backwards=result.backwards,
        seconds=result.seconds,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        cell=cell,
        versions=versions(),
    )
    write_atomically(path, encoded(row))
    return row


def stored(store: Path, *, damaged: Callable[[UserError], None]) -> Iterator[ReprogrammedModel]:
    """The results of this kind in a store, by the content hash.

    Args:
        store: The folder of the store.
        damaged: Called with what is to be said of each file that is not as it was stored, and is passed by.
    """
    for path in sorted((store / REPROGRAMMING).glob("*.json")):
        try:
            row = _read(path)
        except UserError as error:
            damaged(error)
        else:
            yield row


def take(store: Path, other: Path, *, damaged: Callable[[UserError], None]) -> int:
    """Copies the results of this kind that another store has and this one has not; its own stay as they are.

    Args:
        store: The folder of the store.
        other: The other's, which stays as it is.
        damaged: As for :func:`stored`.

    Returns:
        How many were copied.

    Raises:
        UserError: This store cannot be written.
    """
    copied = 0
    for row in stored(other, damaged=damaged):
        path = store / REPROGRAMMING / f"{row.cell}.json"
        if not path.exists():
            write_atomically(path, encoded(row))
            copied += 1
    return copied


def leftovers(store: Path, *, older_than: float) -> list[Path]:
    """What kills left half-written of results of this kind.

    Args:
        store: The folder of the store.
        older_than: Seconds; what is younger may be in the making.
    """
    return stale_temporary_files(store / REPROGRAMMING, older_than=older_than)


def _read(path: Path) -> ReprogrammedModel:
    row = read_record(path, ReprogrammedModel)
    if row.cell != path.stem:
        raise UserError(f"{path} holds the cell {row.cell}: remove it, or give it back its name")
    return row
