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
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.attacks.base.files import write_whole
from robustbench_cli.attacks.base.method import Method
from robustbench_cli.attacks.base.random import seed_from

__all__ = ["Examples", "Loss", "Recipe", "Trainer", "TrainingProgress"]

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From the network, images ``(B, C, H, W)`` and labels ``(B,)`` to the mean loss over the batch."""


class Examples(Protocol):
    """Labelled images that can be asked for by their places."""

    @property
    def classes(self) -> int:
        """K."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(B, C, H, W)``, float32 in [0, 1], and labels ``(B,)``, int64, at ``indices`` ``(B,)``, int64."""
        ...


class Recipe(Method):
    """How long and how a network is trained."""

    paper: ClassVar[str] = "Leslie N. Smith, Nicholay Topin, Super-Convergence, 2018, arXiv 1708.07120 (one-cycle)"

    epochs: int = Field(10, ge=1, description="passes through the training data")
    batch_size: int = Field(128, ge=1, description="most images in a step; an epoch's batches are of nearly equal size")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="AdamW, or SGD with Nesterov's momentum")
    lr: float = Field(4e-3, gt=0, description="learning rate, at its highest")
    momentum: float = Field(0.9, gt=0, lt=1, description="of sgd")
    weight_decay: float = Field(
        0.01, ge=0, description="of adam decoupled from the gradient (AdamW), of sgd added to it"
    )
    schedule: Literal["one-cycle", "constant"] = Field(
        "one-cycle", description="up in a line for a fifth of the steps and down along a cosine to 0, or always lr"
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="of the layers' arithmetic; bf16 is faster where the processor has it"
    )

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step ``step`` (0-based) of ``steps``."""
        if self.schedule == "constant":
            return self.lr
        share, rising = (step + 1) / (steps + 1), 0.2
        if share < rising:
            return self.lr * share / rising
        return self.lr * (1 + math.cos(math.pi * (share - rising) / (1 - rising))) / 2

    def build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over ``parameters``."""
        if self.optimizer == "adam":
            return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, nesterov=True, weight_decay=self.weight_decay, fused=True
        )


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
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield seed

    def fit(self, network: nn.Module, *, name: str, keep: nn.Module | None = None, loss: Loss = _cross_entropy) -> None:
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
        first, seconds = self._restore(network, name, keep, optimizer)
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
            self._save(network, name, keep, optimizer, epoch=epoch + 1, seconds=seconds)
            self._progress(TrainingProgress(name, epoch + 1, self.recipe.epochs, value, seconds))
        network.eval()

    def _epoch(
        self,
        network: nn.Module,
        parameters: list[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        loss: Loss,
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
                parameter.grad = gradient
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

    def _save(
        self,
        network: nn.Module,
        name: str,
        keep: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        *,
        epoch: int,
        seconds: float,
    ) -> None:
        if self._resume is None:
            return
        tensors = {f"keep/{key}": tensor for key, tensor in (keep or network).state_dict().items()}
        if epoch < self.recipe.epochs:
            tensors |= {f"network/{key}": tensor for key, tensor in network.state_dict().items()}
            for number, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{number}/{key}": tensor for key, tensor in state.items()}
        metadata = {
            **self._identity(keep or network),
            "state": json.dumps({"name": name, "epoch": epoch, "seconds": seconds, "finished": self._finished}),
        }
        # Tensors of one storage are refused, and network's are keep's.
        content = save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}, metadata)
        write_whole(self._resume, content)

    def _restore(
        self, network: nn.Module, name: str, keep: nn.Module | None, optimizer: torch.optim.Optimizer
    ) -> tuple[int, float]:
        """Loads what the file holds of this training; the epochs done and the seconds spent on them."""
        if self._saved:
            assert self._resume is not None
            tensors, metadata = _read(self._resume)
            for what, value in self._identity(keep or network).items():
                if metadata.get(what) != value:
                    raise UserError(f"{self._resume} is a training with another {what}: delete it to start anew")
            state = json.loads(metadata["state"])
            self._finished = state["finished"]
            (keep or network).load_state_dict(_below("keep/", tensors))
            if name == state["name"] and name not in self._finished:
                network.load_state_dict(_below("network/", tensors))
                _load_optimizer(optimizer, _below("optimizer/", tensors))
                self._saved = False
                return state["epoch"], state["seconds"]
            self._saved = name in self._finished
        return (self.recipe.epochs, 0.0) if name in self._finished else (0, 0.0)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} holds no training to resume ({error}): delete it to start anew") from error


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, part = key.partition("/")
        parameter = parameters[int(number)]
        # In the parameter's own memory format, as the optimizer itself would have made it.
        same = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
        state.setdefault(int(number), {})[part] = same
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
