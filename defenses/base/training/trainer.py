"""The one training loop: fast on a CPU, the same from the same seed, and able to go on where it was killed."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_cli.attacks.base.models.freezing import move
from robustbench_cli.attacks.base.rng import seed_from, seeded
from robustbench_cli.core.errors import UserError, is_out_of_memory, one_line
from robustbench_cli.defenses.base.training.adversarial import accuracy_under_pgd
from robustbench_cli.defenses.base.training.data_parallel import average_gradients, data_parallel_gradients
from robustbench_cli.defenses.base.training.processes import Processes
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.resume import TrainingState, read_state, read_tensors, write_state
from robustbench_cli.defenses.base.training.weight_selection import Collapse, WeightSelection

__all__ = ["Examples", "Gradients", "Trainer", "TrainingLoss", "TrainingProgress"]

TrainingLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From the network, images ``(B, C, H, W)`` and labels ``(B,)`` to the mean loss over the batch."""

Gradients = Callable[[nn.Module, Tensor, Tensor, Sequence[nn.Parameter]], tuple[Tensor, Sequence[Tensor | None]]]
"""From the network, images ``(B, C, H, W)``, labels ``(B,)`` and P parameters to the mean loss over the batch and its P
gradients, ``None`` where a parameter has no part in it.
"""


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
        epochs: Of how many; of no more than are done where the training has ended early.
        loss: The mean training loss of the last one.
        seconds: Spent on ``name`` so far.
        note: When it is done, what else is to be said, in words: which epoch's weights stay, or why it has ended early.
    """

    name: str
    epoch: int
    epochs: int
    loss: float
    seconds: float
    note: str = ""


def _cross_entropy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(images), labels)


def _gradients_of(loss: TrainingLoss) -> Gradients:
    def gradients(
        network: nn.Module, images: Tensor, labels: Tensor, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        value = loss(network, images, labels)
        if not value.requires_grad:
            raise UserError(
                "the model cannot be trained: its logits are cut off from its weights (detach, no_grad); "
                "give a --checkpoint of it"
            )
        # Only these: a loss may ask for gradients of its own, and .grad of frozen parameters costs time.
        return value, torch.autograd.grad(value, parameters, allow_unused=True)

    return gradients


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of the parameter: fused optimizers pair numbers as they lie, unchecked."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _set_modes(network: nn.Module) -> None:
    """Sets ``train()`` mode, but ``eval()`` mode where all parameters are frozen."""
    network.train()
    for module in network.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


@contextmanager
def _telling_of_memory(name: str) -> Iterator[None]:
    """Within it, a step that does not fit the memory is told as the user's matter."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{name} runs out of memory: give a smaller batch_size ({one_line(error)})") from error


class Trainer:
    """Trains networks on examples by one recipe.

    Where a launcher has started several processes, each is to do the same with a ``Trainer`` of its own, and every
    batch is divided among them. With a loss that is a mean over its images, without draws or batch statistics, they
    train what one process does, but for rounding.

    Args:
        examples: What to train on.
        recipe: How.
        seed: Every order of the examples and every draw follow from it, the network's name and the epoch.
        device: Where; of several processes on GPUs, each one's own.
        progress: Called after each epoch, when the file at ``resume`` is already written.
        resume: A file that is kept while training and read by the next ``Trainer`` that is given it, which then goes on
            where this one stopped and ends with the very same weights (on a CPU). Delete it when all is trained.

    Attributes:
        training: The places ``(n,)`` of the examples that are trained on: all but for what the recipe holds out.
        held_out: The places of the others.
        share: What of each batch falls to this process.
        done: The share of its steps that the present training has done, for a loss that changes in its course.

    Raises:
        UserError: There are more processes than images in a batch, or they cannot be connected.
    """

    def __init__(
        self,
        examples: Examples,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        progress: Callable[[TrainingProgress], None] = lambda _: None,
        resume: Path | None = None,
    ) -> None:
        self.examples = examples
        self._layout = torch.channels_last
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self._progress = progress
        self._resume = resume
        self._finished: dict[str, dict[str, float]] = {}
        self._processes = Processes.connect(device)
        self._saved = self._processes.run_on_first(lambda: resume is not None and resume.exists())
        self.share = self._processes.share
        self.fraction_done = 0.0
        self.train_indices, self.held_out_indices = self._divided()
        if len(self.train_indices) < self._batches_an_epoch * self._processes.number:
            raise UserError(
                f"{self._processes.number} processes cannot share batches of {recipe.batch_size} from {len(self.train_indices)} "
                "images: give a larger batch_size, or start fewer"
            )

    @property
    def largest_batch(self) -> int:
        """How many images a step has at most, of all processes together."""
        return math.ceil(len(self.train_indices) / self._batches_an_epoch)

    @property
    def record(self) -> dict[str, Any]:
        """For a checkpoint: recipe, seed, seconds, and of each network trained its last loss, its seconds and its radius."""
        several = {"processes": self._processes.number} if self._processes.number > 1 else {}
        return {
            "recipe": self.recipe.model_dump(),
            "seed": self.seed,
            **several,
            "seconds": sum(part["seconds"] for part in self._finished.values()),
            "trained": self._finished,
        }

    @contextmanager
    def seeded(self, *of: int | str) -> Iterator[int]:
        """Within it, torch's random numbers follow from the trainer's seed and ``of`` alone; the caller's stay.

        Yields:
            The seed that it set.
        """
        seed = seed_from(self.seed, *of)
        with seeded(seed):
            yield seed

    def fit(
        self,
        network: nn.Module,
        *,
        name: str,
        whole: nn.Module | None = None,
        loss: TrainingLoss = _cross_entropy,
        eps: float = 0,
        gradients: Gradients | None = None,
        replays: int = 1,
        collapse: Collapse | None = None,
        on_finish: Callable[[], None] = lambda: None,
    ) -> None:
        """Trains in place the parameters of ``network`` that require a gradient.

        Modules whose parameters are all frozen run in ``eval()`` mode, without their dropout and with the statistics
        that they have. When done, all of ``network`` is in ``eval()`` mode.

        Args:
            network: Images ``(B, C, H, W)`` to logits ``(B, K)``.
            name: Tells this training from others of the same trainer.
            whole: The whole model that ``network`` is a part of, if it is one; kept with it in the file for resuming.
            loss: The mean cross entropy of the logits, unless given.
            eps: The radius in linf that the network is trained for, at which held-out images are attacked.
            gradients: In the place of ``loss``, what gives the loss and its gradients in one.
            replays: How often in a row each batch is trained on; the recipe's epochs are divided by it.
            collapse: What ends the training early, if anything does.
            on_finish: Called when ``network`` has the weights that it ends with, before ``whole`` is stored.

        Raises:
            UserError: The loss is not finite or has no gradient, a step does not fit the memory, or the file for
                resuming is of another training or cannot be written.
        """
        self._layout = move(network, self.device, self.examples.batch(self.train_indices[:4])[0])
        self._processes.broadcast_first(network.state_dict().values())
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = self.recipe.build_optimizer(parameters)
        gradients = gradients or _gradients_of(loss)
        if self._processes.number > 1:
            gradients = data_parallel_gradients(gradients, self._processes)
        whole = whole or network
        held_out = partial(self._held_out_accuracy, eps=eps) if len(self.held_out_indices) else None
        outcome = WeightSelection(network, decay=self.recipe.ema, held_out=held_out, collapse=collapse)
        # Each process draws for its share by itself; the first of several as one alone.
        other = (self._processes.rank,) if self._processes.rank else ()
        epochs = math.ceil(self.recipe.epochs / replays)
        first, seconds = self._restore(name, whole, network, optimizer, outcome)
        if name in self._finished:
            first = epochs
        _set_modes(network)
        for epoch in range(first, epochs):
            started = time.perf_counter()
            total = torch.zeros((), device=self.device)
            batches = [batch for batch in self._batches(seed_from(self.seed, name, epoch)) for _ in range(replays)]
            steps = epochs * len(batches)
            with _telling_of_memory(name), self.seeded(name, epoch, *other):
                for step, indices in enumerate(batches, start=epoch * len(batches)):
                    self.fraction_done = step / steps
                    rate = self.recipe.rate(step, steps)
                    total += self._step(network, parameters, optimizer, gradients, indices, rate) * len(indices)
                    outcome.after_step(step)
            optimizer.zero_grad()
            value = total.item() / (replays * len(self.train_indices))
            if not math.isfinite(value):
                raise UserError(f"{name} diverged in epoch {epoch + 1}, its loss is {value}: give a lower lr")
            with _telling_of_memory(name), self.seeded(name, epoch, "measured", *other):
                collapsed = outcome.after_epoch(epoch)
            seconds += time.perf_counter() - started
            ended, note = collapsed or epoch + 1 == epochs, ""
            if ended:
                note = outcome.settle()
                on_finish()
                radius = {"eps": eps} if eps else {}
                self._finished[name] = {"loss": value, "seconds": seconds, **radius, **outcome.measured}
            state = TrainingState(
                name=name, epoch=epoch + 1, seconds=seconds, finished=self._finished, measured=outcome.measured
            )
            self._keep(state, whole, network, optimizer, outcome)
            self._progress(TrainingProgress(name, epoch + 1, epoch + 1 if ended else epochs, value, seconds, note))
            if ended:
                break
        network.eval()

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)`` and labels ``(B,)`` at places ``(B,)``, on the trainer's device, in the network's layout."""
        images, labels = self.examples.batch(indices)
        return (
            images.to(self.device, memory_format=self._layout, non_blocking=True),
            labels.to(self.device, non_blocking=True),
        )

    def average_gradients(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], number: int
    ) -> Sequence[Tensor | None]:
        """Gradients of the mean loss over a batch, from those over this process's share of it; the same where it has all.

        For a loss that is no mean over its images, and looks at a gradient on the way.

        Args:
            gradients: Of this share, ``None`` where a parameter has no part in it.
            parameters: What they are gradients of.
            number: How many images the share has.
        """
        return average_gradients(gradients, parameters, number, self._processes)

    def accuracy(self, network: nn.Module, places: Tensor, *, eps: float, steps: int, step_size: float) -> float:
        """The share of the examples at places ``(n,)`` that a network in training gets right under PGD.

        See :func:`~.adversarial.accuracy_under_pgd`; each process measures a part of them.
        """
        own = places[self.share]
        batches = (self.batch(part) for part in own.split(self.recipe.batch_size))
        right = accuracy_under_pgd(network, batches, eps=eps, steps=steps, step_size=step_size) if len(own) else 0.0
        # Of doubles, which count exactly; a product is whole but for rounding.
        total = self._processes.sum(torch.tensor(round(right * len(own)), dtype=torch.float64, device=self.device))
        return total.item() / len(places)

    def _divided(self) -> tuple[Tensor, Tensor]:
        """The places that are trained on, and those that are held out."""
        number = len(self.examples)
        if not self.recipe.held_out:
            return torch.arange(number), torch.arange(0)
        order = torch.randperm(number, generator=torch.Generator().manual_seed(seed_from(self.seed, "held out")))
        held_out = min(max(round(self.recipe.held_out * number), 1), number - 1)
        return order[held_out:], order[:held_out]

    def _batches(self, seed: int) -> Sequence[Tensor]:
        """An epoch's batches of places, in an order that follows from the seed."""
        order = torch.randperm(len(self.train_indices), generator=torch.Generator().manual_seed(seed))
        return self.train_indices[order].tensor_split(self._batches_an_epoch)

    @property
    def _batches_an_epoch(self) -> int:
        return math.ceil(len(self.train_indices) / self.recipe.batch_size)

    def _step(
        self,
        network: nn.Module,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        gradients: Gradients,
        indices: Tensor,
        rate: float,
    ) -> Tensor:
        """One step of the optimizer at a learning rate; the mean loss before it."""
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, labels = self.batch(indices[self.share])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            value, slopes = gradients(network, images, labels, parameters)
        for parameter, gradient in zip(parameters, slopes, strict=True):
            parameter.grad = gradient if gradient is None else _laid_out_as(parameter, gradient)
        optimizer.step()
        return value.detach()

    def _held_out_accuracy(self, network: nn.Module, *, eps: float) -> float:
        """The share of the held-out images that a network gets right under PGD."""
        eps = eps if self.recipe.held_out_eps is None else self.recipe.held_out_eps
        steps = self.recipe.held_out_steps
        return self.accuracy(network, self.held_out_indices, eps=eps, steps=steps, step_size=2.5 * eps / steps)

    def _identity(self, model: nn.Module) -> dict[str, str]:
        """What must be the same for a training to go on, by what it is called in a message."""
        shapes = [(name, list(tensor.shape)) for name, tensor in model.state_dict().items()]
        return {
            "recipe": self.recipe.model_dump_json(),
            "seed": str(self.seed),
            "number of examples": str(len(self.examples)),
            "model": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
        }

    def _keep(
        self,
        state: TrainingState,
        whole: nn.Module,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        outcome: WeightSelection,
    ) -> None:
        """Writes the file to resume from, if one is asked for, while the other processes wait."""
        if self._resume is None:
            return
        write = partial(write_state, self._resume, state, self._identity(whole))
        self._processes.run_on_first(
            partial(write, whole=whole, network=network, optimizer=optimizer, copies=outcome.copies)
        )

    def _restore(
        self,
        name: str,
        whole: nn.Module,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        outcome: WeightSelection,
    ) -> tuple[int, float]:
        """Takes up what the file holds of this training; the epochs done and the seconds spent on them."""
        if self._saved:
            assert self._resume is not None
            content = self._processes.run_on_first(partial(read_tensors, self._resume))
            state = read_state(
                self._resume,
                content,
                self._identity(whole),
                name=name,
                whole=whole,
                network=network,
                optimizer=optimizer,
                copies=outcome.copies,
            )
            self._finished = state.finished
            # Networks that are finished are passed by until the one comes that was not.
            self._saved = name in self._finished
            if name == state.name and not self._saved:
                outcome.measured |= state.measured
                return state.epoch, state.seconds
        return 0, 0.0
