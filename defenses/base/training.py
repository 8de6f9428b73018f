"""The one training loop: fast on a CPU, the same from the same seed, and able to go on where it was killed."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.attacks.base.random import seed_from, seeded
from robustbench_cli.defenses.base.recipe import Recipe
from robustbench_cli.defenses.base.resume import State, read_state, write_state

__all__ = ["Examples", "Trainer", "TrainingLoss", "TrainingProgress"]

TrainingLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From the network, images ``(B, C, H, W)`` and labels ``(B,)`` to the mean loss over the batch."""


class Examples(Protocol):
    """Labelled images that can be asked for by their places."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in [0, 1], and labels ``(B,)``, int64, at ``indices`` ``(B,)``, int64."""
        ...


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands after an epoch.

    Attributes:
        name: Of what is being trained.
        epoch: How many epochs are done.
        epochs: Of how many.
        loss: The mean training loss of the last one.
        seconds: Spent on ``name`` so far.
    """

    name: str
    epoch: int
    epochs: int
    loss: float
    seconds: float


def _ignore(progress: TrainingProgress) -> None:
    pass


def _cross_entropy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(images), labels)


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of the parameter: fused optimizers pair their numbers as they lie, unchecked."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


class Trainer:
    """Trains networks on examples by one recipe.

    Args:
        examples: What to train on.
        recipe: How.
        seed: Every order of the examples and every draw follow from it, the network's name and the epoch.
        device: Where.
        progress: Called after each epoch, when the file at ``resume`` is already written.
        resume: A file that is kept while training and read by the next ``Trainer`` that is given it, which then goes on
            where this one stopped and ends with the very same weights (on a CPU). Delete it when all is trained.
    """

    def __init__(
        self,
        examples: Examples,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        progress: Callable[[TrainingProgress], None] = _ignore,
        resume: Path | None = None,
    ) -> None:
        self.examples = examples
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self._progress = progress
        self._resume = resume
        self._finished: dict[str, dict[str, float]] = {}
        self._saved = resume is not None and resume.exists()

    @property
    def record(self) -> dict[str, Any]:
        """For a checkpoint: recipe, seed, seconds, and of each network trained its last loss and its seconds."""
        return {
            "recipe": self.recipe.model_dump(),
            "seed": self.seed,
            "seconds": sum(part["seconds"] for part in self._finished.values()),
            "trained": self._finished,
        }

    @contextmanager
    def draws(self, *of: int | str) -> Iterator[int]:
        """Within it, torch's random numbers follow from the trainer's seed and ``of`` alone; the caller's stay as they were.

        Yields:
            The seed that it set.
        """
        seed = seed_from(self.seed, *of)
        with seeded(seed, self.device):
            yield seed

    def fit(
        self, network: nn.Module, *, name: str, keep: nn.Module | None = None, loss: TrainingLoss = _cross_entropy
    ) -> None:
        """Trains in place the parameters of ``network`` that require a gradient.

        Modules whose parameters are all frozen run in ``eval()`` mode, without their dropout and with the statistics
        that they have. When done, all of ``network`` is in ``eval()`` mode.

        Args:
            network: Images ``(B, C, H, W)`` to logits ``(B, K)``.
            name: Tells this training from others of the same trainer.
            keep: The whole model that ``network`` is a part of, if it is one; kept with it in the file for resuming.
            loss: The mean cross entropy of the logits, unless given.

        Raises:
            UserError: The loss is not finite, or the file for resuming is of another training or cannot be written.
        """
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = self.recipe.build_optimizer(parameters)
        whole = keep or network
        first, seconds = self._restore(name, whole, network, optimizer)
        network.train()
        for module in network.modules():
            own = list(module.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
        for epoch in range(first, self.recipe.epochs):
            started = time.perf_counter()
            with self.draws(name, epoch) as seed:
                value = self._epoch(network, parameters, optimizer, loss, epoch=epoch, seed=seed)
            if not math.isfinite(value):
                raise UserError(f"{name} diverged in epoch {epoch + 1}, its loss is {value}: give a lower lr")
            seconds += time.perf_counter() - started
            if epoch + 1 == self.recipe.epochs:
                self._finished[name] = {"loss": value, "seconds": seconds}
            if self._resume is not None:
                state = State(name=name, epoch=epoch + 1, seconds=seconds, finished=self._finished)
                identity = self._identity(whole)
                write_state(self._resume, state, identity, whole=whole, network=network, optimizer=optimizer)
            self._progress(TrainingProgress(name, epoch + 1, self.recipe.epochs, value, seconds))
        network.eval()

    def _epoch(
        self,
        network: nn.Module,
        parameters: list[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        loss: TrainingLoss,
        *,
        epoch: int,
        seed: int,
    ) -> float:
        """One pass through the examples; the mean loss."""
        order = torch.randperm(len(self.examples), generator=torch.Generator().manual_seed(seed))
        batches = order.tensor_split(math.ceil(len(order) / self.recipe.batch_size))
        total = torch.zeros((), device=self.device)
        for number, indices in enumerate(batches):
            rate = self.recipe.rate(epoch * len(batches) + number, self.recipe.epochs * len(batches))
            for group in optimizer.param_groups:
                group["lr"] = rate
            images, labels = self.examples.batch(indices)
            images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
                value = loss(network, images, labels)
            # Only these: a loss may ask for gradients of its own, and .grad of frozen parameters costs time.
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient if gradient is None else _laid_out_as(parameter, gradient)
            optimizer.step()
            total += value.detach() * len(indices)
        optimizer.zero_grad()
        return total.item() / len(order)

    def _identity(self, model: nn.Module) -> dict[str, str]:
        """What must be the same for a training to go on, by what it is called in a message."""
        shapes = [(name, list(tensor.shape)) for name, tensor in model.state_dict().items()]
        return {
            "recipe": self.recipe.model_dump_json(),
            "seed": str(self.seed),
            "number of examples": str(len(self.examples)),
            "model": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
        }

    def _restore(
        self, name: str, whole: nn.Module, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[int, float]:
        """Takes up what the file holds of this training; the epochs done and the seconds spent on them."""
        if self._saved:
            assert self._resume is not None
            state = read_state(
                self._resume, self._identity(whole), name=name, whole=whole, network=network, optimizer=optimizer
            )
            self._finished = state.finished
            # Networks that are finished are passed by until the one comes that was not.
            self._saved = name in self._finished
            if name == state.name and not self._saved:
                return state.epoch, state.seconds
        return (self.recipe.epochs, 0.0) if name in self._finished else (0, 0.0)
