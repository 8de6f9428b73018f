"""The adversarial program: its layer, its training in front of a frozen model, and its score."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.draws import EOTChoice
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import seed_from
from robustbench_cli.benchmarks.devices import keep_freed_memory
from robustbench_cli.benchmarks.evaluation.evaluate import predict
from robustbench_cli.benchmarks.evaluation.pass_settings import measured_on
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings
from robustbench_cli.defenses.base.training.loading import Examples
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress

__all__ = ["Program", "Reprogramming", "ReprogrammingOptions", "Task", "TrainedProgram", "reprogram"]

_CPU = torch.device("cpu")


class Reprogramming(Settings):
    """Adversarial reprogramming: a trained layer in front of a frozen model makes it solve another task.

    The program is the locally connected layer of the HRS paper: the task's image is zero-padded, and a window with
    weights of its own at every position maps it to pixels in [0, 1] by ``tanh(relu(...))``. The loss is the
    cross-entropy between the model's logits and the task's labels; class k of the task is class k of the model.
    The paper trains for 50 epochs with SGD; here it is Adam with a one-cycle learning rate.
    """

    paper: ClassVar[str] = (
        "Gamaleldin F. Elsayed, Ian Goodfellow, Jascha Sohl-Dickstein, Adversarial Reprogramming of Neural Networks, ICLR 2019, "
        "arXiv 1806.11146"
    )

    kernel: int = Field(3, ge=1, description="side of the window behind each pixel of the model's input")
    shift: int = Field(0, ge=0, description="class k of the task is class k + shift of the model, modulo its classes")
    epochs: int = Field(20, ge=1, description="epochs over the task's training images")
    lr: float = Field(0.02, gt=0, description="peak learning rate")
    examples: int = Field(10_000, ge=1, description="maximum number of the task's training images")


class Program(nn.Module):
    """A locally connected layer from a task's images to a model's input.

    Args:
        task: ``(c, h, w)`` of the task's images.
        shape: ``(C, H, W)`` of the model's input.
        kernel: Side k of the window. Images are zero-padded to ``(H + k - 1, W + k - 1)`` and centered.

    Raises:
        UserError: The task's images are larger than the padded size.
    """

    def __init__(self, task: tuple[int, int, int], shape: tuple[int, int, int], *, kernel: int) -> None:
        super().__init__()
        spare = [shape[axis] + kernel - 1 - task[axis] for axis in (1, 2)]
        if min(spare) < 0:
            largest = f"{shape[1] + kernel - 1}x{shape[2] + kernel - 1}"
            raise UserError(
                f"images of {task[1]}x{task[2]} do not fit into {largest}, a window of {kernel} around the model's "
                f"{shape[1]}x{shape[2]}: give a task of smaller images, or a larger reprogramming.kernel"
            )
        self.shape = shape
        self.kernel = kernel
        self.padding = (spare[1] // 2, spare[1] - spare[1] // 2, spare[0] // 2, spare[0] - spare[0] // 2)
        positions, inputs = shape[1] * shape[2], task[0] * kernel**2
        # The biases are random too: windows in the padding see only zeros, and relu has no slope at 0.
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(positions, inputs, shape[0]).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(positions, 1, shape[0]).uniform_(-bound, bound))

    def forward(self, images: Tensor) -> Tensor:
        """The model's input ``(N, C, H, W)`` in [0, 1] for images ``(N, c, h, w)`` of the task."""
        windows = functional.unfold(functional.pad(images, self.padding), self.kernel)
        pixels = torch.baddbmm(self.bias, windows.permute(2, 0, 1), self.weight)
        return pixels.relu().tanh().permute(1, 2, 0).reshape(len(images), *self.shape)


@dataclass(frozen=True, kw_only=True)
class Task:
    """The data of the task that the model is to solve.

    Attributes:
        train: The training examples.
        images: ``(n, c, h, w)`` in [0, 1], the test images.
        labels: ``(n,)``, their classes.
    """

    train: Examples
    images: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class ReprogrammingOptions:
    """How a reprogramming is run and scored.

    Attributes:
        eot: The draws behind each gradient; see :data:`~robustbench_cli.attacks.base.gradients.draws.EOTChoice`.
        repeats: The draws that score each image; ``None`` for the usual number of the model.
        seed: The seed of the program's weights, of the training order and of all draws.
        device: The device to compute on.
        batch_size: Rows per forward pass; ``None`` to choose it for the device.
    """

    eot: EOTChoice = 1
    repeats: int | None = 1
    seed: int = 0
    device: torch.device = _CPU
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainedProgram:
    """A program, and how well the model solves the task with it.

    Attributes:
        program: The trained program.
        correct: ``(n,)``, for each test image the share of draws in which the deployed rule gives the task's class.
        forwards: Images passed through the model in training, in passes of one draw.
        backwards: Images passed back to its input.
        seconds: Wall time.
    """

    program: Program
    correct: NDArray[np.float64]
    forwards: int
    backwards: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """The mean over images and draws; low for a well protected model."""
        return float(self.correct.mean())


def reprogram(
    model: nn.Module,
    shape: tuple[int, int, int],
    classes: int,
    task: Task,
    method: Reprogramming,
    options: ReprogrammingOptions,
    *,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> TrainedProgram:
    """Trains a program for a model and scores it on test images, by the deployed rule on fresh draws.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``. It stays unchanged.
        shape: ``(C, H, W)``.
        classes: K.
        task: The task's training and test data.
        method: The parameters of the attack.
        options: The draws, the seed and the device.
        progress: Called after each epoch.

    Raises:
        UserError: The task has more classes than the model, or its images are too large.
    """
    if int(task.labels.max()) >= classes:
        raise UserError(f"the task has more classes than the model's {classes}: give a task of as many or fewer")
    started = time.perf_counter()
    keep_freed_memory()
    device = options.device
    recipe = Recipe(epochs=method.epochs, lr=method.lr, weight_decay=0)
    trainer = Trainer(_First(task.train, method.examples), recipe, seed=options.seed, device=device, progress=progress)
    probe = torch.linspace(0, 1, 8 * math.prod(shape), device=device).reshape(8, *shape)
    with measured_on(model, probe, device, "tf32", batch_size=options.batch_size) as measured:
        source = measured.source(options.eot, seed=options.seed)
        source.bind_draws(seed_from(options.seed, "reprogramming"), torch.empty(0, dtype=torch.int64))
        with trainer.seeded("program"):
            _, channels, height, width = task.images.shape
            program = Program((channels, height, width), shape, kernel=method.kernel)
        trainer.fit(program, name="program", loss=_loss(source, shift=method.shift, classes=classes))
        with torch.no_grad():
            inputs = torch.cat([program(batch.to(device)).cpu() for batch in task.images.split(512)])
    correct = _score(model, inputs, (task.labels + method.shift) % classes, options)
    return TrainedProgram(
        program=program.cpu(),
        correct=correct,
        forwards=round(source.forwards),
        backwards=round(source.backwards),
        seconds=time.perf_counter() - started,
    )


def _loss(source: GradientSource, *, shift: int, classes: int) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """The cross-entropy of the model behind a gradient source, as a function of the program.

    Args:
        source: The frozen model.
        shift: Class k of the task is class k + shift of the model.
        classes: The number of the model's classes.
    """

    def loss(program: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        rows: Tensor = program(images)
        targets = (labels + shift) % classes
        logits, gradient = source.gradient(rows.detach(), targets, _cross_entropy)
        value = functional.cross_entropy(logits.flatten(0, 1), targets.repeat(len(logits)))
        # The chain rule: the inner product has the source's gradient as its slope, and adds nothing to the value.
        inner = (rows * gradient).sum() / len(rows)
        return value + inner - inner.detach()

    return loss


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _score(model: nn.Module, inputs: Tensor, targets: Tensor, options: ReprogrammingOptions) -> NDArray[np.float64]:
    """For each input ``(n, C, H, W)`` the share ``(n,)`` of draws in which the model predicts the target ``(n,)``."""
    predictions = predict(
        model,
        inputs,
        repeats=options.repeats or 1,
        seed=seed_from(options.seed, "test"),
        device=options.device,
        batch_size=options.batch_size,
    )
    return np.asarray((predictions == targets.numpy()).mean(0))


class _First:
    """The first few of some examples.

    Args:
        examples: All of them.
        most: The maximum number.
    """

    def __init__(self, examples: Examples, most: int) -> None:
        self._examples = examples
        self._count = min(most, len(examples))

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self._examples.batch(indices)
