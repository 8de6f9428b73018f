"""The training loop of all defenses: fast on a CPU, reproducible from a seed, resumable after a kill."""

from __future__ import annotations

import hashlib
import json
import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustbench_cli.attacks.base.models.freezing import frozen, move
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import seed_from, seeded
from robustbench_cli.core.errors import UserError, is_out_of_memory, one_line
from robustbench_cli.defenses.base.training.adversarial import InnerPGD, accuracy_under_pgd
from robustbench_cli.defenses.base.training.at_once import inputs_of, learner_in
from robustbench_cli.defenses.base.training.augmentations.base.augmentation import augment, build_augmentations
from robustbench_cli.defenses.base.training.data_parallel import average_gradients, data_parallel_gradients
from robustbench_cli.defenses.base.training.epoch_batches import EpochBatches
from robustbench_cli.defenses.base.training.gradients import (
    Gradients,
    TrainingLoss,
    cross_entropy,
    gradients_of,
    smoothing_labels,
)
from robustbench_cli.defenses.base.training.loading import (
    Examples,
    Loader,
    joined_examples,
    layout_for_training,
)
from robustbench_cli.defenses.base.training.processes import Processes
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.resume import (
    TrainingState,
    read_finals,
    read_state,
    read_tensors,
    resize_as_stored,
    write_state,
)
from robustbench_cli.defenses.base.training.weight_selection import Collapse, WeightSelection

__all__ = ["Trainer", "TrainingProgress"]

Item = TypeVar("Item")
"""What a step of a defense's procedure takes."""


@dataclass(frozen=True)
class TrainingProgress:
    """The state of a training after an epoch, or of another part of a defense's procedure after one of its steps.

    Attributes:
        name: The name of the training.
        epoch: The number of finished epochs, or steps.
        epochs: The total number. After early stopping it equals ``epoch``.
        loss: The mean training loss of the last epoch; ``None`` for steps that train nothing.
        seconds: The time spent on this training so far.
        note: After the last epoch, a remark for the user: which epoch's weights are used, or why training stopped early.
    """

    name: str
    epoch: int
    epochs: int
    loss: float | None
    seconds: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The training of one network; see :meth:`Trainer.fit` for the fields.

    Attributes:
        frozen: The first layers of the network, if the loss does not get them.
        trained: The layers that the loss gets.
        classes: The number of classes of its logits; 0 if no augmentation mixes labels.
    """

    name: str
    network: nn.Module
    frozen: nn.Module | None
    trained: nn.Module
    whole: nn.Module
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    gradients: Gradients
    selection: WeightSelection
    radii: Mapping[Norm, float]
    epochs: int
    classes: int
    replays: int = 1
    on_finish: Callable[[], None] = lambda: None


class Trainer:
    """Trains networks on examples by one recipe.

    If a launcher has started several processes, each of them makes the same calls on a ``Trainer`` of its own, and they
    share every batch. The result equals that of one process up to rounding if the loss is a mean over the images and
    nothing depends on draws or batch statistics.

    Args:
        examples: The training examples.
        recipe: The hyperparameters.
        seed: Determines the order of the examples and all draws, together with the network's name and the epoch.
        device: The device to train on. Of several processes on GPUs each has its own.
        extra: Further training examples, if the recipe has ``extra``. They take a fraction of each batch.
        progress: Called after each epoch, when the file ``resume`` is already written.
        resume: A file that stores the state after each epoch. The next ``Trainer`` with this file resumes the training
            and ends, on a CPU, with exactly the same weights. Delete the file when all networks are trained.

    Attributes:
        share: This process's part of each batch.
        finals: The states of the whole model with the ``latest``, ``averaged`` and ``best`` weights of the network that was
            trained last, on the CPU; empty if there are only the latest.
        fraction_done: The fraction of its steps that the current training has done, for losses that depend on it.
        begins_epoch: Whether the current step is the first of its epoch, for losses with variables that change there.

    Raises:
        UserError: There are more processes than images in a batch, or the processes cannot be connected.
    """

    def __init__(
        self,
        examples: Examples,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        extra: Examples | None = None,
        progress: Callable[[TrainingProgress], None] = lambda _: None,
        resume: Path | None = None,
    ) -> None:
        self.examples = examples
        self.recipe = recipe
        self.seed = seed
        self.device = device
        assert (recipe.extra is None) == (extra is None)
        self._loader = Loader(examples if extra is None else joined_examples(examples, extra), device)
        self._augmentations = build_augmentations(recipe.augmentations or ())
        self._progress = progress
        self._resume = resume
        self._finished: dict[str, dict[str, Any]] = {}
        self.finals: dict[str, dict[str, Tensor]] = {}
        self._processes = Processes.connect(device)
        # Each process draws for its own share. The first draws what a single process would.
        self._draw_key = (self._processes.rank,) if self._processes.rank else ()
        self._resuming = self._processes.run_on_first(lambda: resume is not None and resume.exists())
        self.share = self._processes.share
        self.fraction_done = 0.0
        self.begins_epoch = False
        self._batches = EpochBatches(examples, recipe, seed=seed, extra=len(extra or ()))
        self._require_shares()

    def _require_shares(self) -> None:
        """Checks that each process gets an image of every batch.

        Raises:
            UserError: It does not.
        """
        if self._batches.images < self._batches.count * self._processes.number:
            raise UserError(
                f"{self._processes.number} processes cannot share batches of {self.recipe.batch_size} from "
                f"{self._batches.images} images: give a larger batch_size, or start fewer"
            )

    @property
    def train_indices(self) -> Tensor:
        """The indices ``(n,)`` of the examples to train on: all except the held-out ones."""
        return self._batches.train_indices

    @property
    def held_out_indices(self) -> Tensor:
        """The indices ``(m,)`` of the held-out examples."""
        return self._batches.held_out_indices

    @property
    def largest_batch(self) -> int:
        """The largest number of images in a step, over all processes together."""
        return math.ceil(self._batches.images / self._batches.count)

    @property
    def record(self) -> dict[str, Any]:
        """The record for a checkpoint: recipe, seed, seconds, and each network's last loss, seconds, radius and accuracies."""
        several = {"processes": self._processes.number} if self._processes.number > 1 else {}
        return {
            "recipe": self.recipe.model_dump(),
            "seed": self.seed,
            **several,
            "seconds": sum(part["seconds"] for part in self._finished.values()),
            "trained": self._finished,
        }

    @contextmanager
    def seeded(self, *key: int | str) -> Iterator[int]:
        """Seeds torch's generators within the context, and restores the caller's state afterwards.

        Args:
            *key: Together with the trainer's seed it determines the new seed.

        Yields:
            The new seed.
        """
        seed = seed_from(self.seed, *key)
        with seeded(seed):
            yield seed

    @contextmanager
    def training_on(self, indices: Tensor) -> Iterator[None]:
        """Trains on some of the examples only, within the context.

        Args:
            indices: ``(n,)``, among :attr:`train_indices`.

        Raises:
            UserError: They are too few for the processes.
        """
        every, self._batches = self._batches, self._batches.only(indices)
        try:
            self._require_shares()
            yield
        finally:
            self._batches = every

    def steps(self, items: Sequence[Item], *, name: str) -> Iterator[Item]:
        """Yields items, and reports after each that its step is done.

        Args:
            items: What the steps of a defense's procedure take, such as the rates among which it chooses.
            name: What they do, for the user.
        """
        started = time.monotonic()
        for number, item in enumerate(items, start=1):
            yield item
            self._progress(TrainingProgress(name, number, len(items), None, time.monotonic() - started))

    def fit(
        self,
        network: nn.Module,
        *,
        name: str,
        whole: nn.Module | None = None,
        loss: TrainingLoss = cross_entropy,
        eps: float | Mapping[Norm, float] = 0,
        collapse: Collapse | None = None,
        frozen_layers: int = 0,
        on_finish: Callable[[], None] = lambda: None,
    ) -> None:
        """Trains those parameters of a network that require a gradient, in place.

        Modules whose parameters are all frozen run in ``eval()`` mode: without dropout, and with fixed batch statistics.
        Afterwards the whole network is in ``eval()`` mode.

        Args:
            network: Images ``(B, C, H, W)`` to logits ``(B, K)``.
            name: Identifies this training among those of the same trainer.
            whole: The model that contains ``network``, if there is one. It is stored in the resume file too.
            loss: The mean loss over a batch.
            eps: The radius in linf of the adversarial training, or its radii by norm. Held-out images are attacked at these.
            collapse: The condition for early stopping, if there is one.
            frozen_layers: The number of first layers of ``network``, an ``nn.Sequential``, that do not train. The loss gets
                the other layers and their inputs, which a GPU computes for several steps in one call.
            on_finish: Called when ``network`` has its final weights, before ``whole`` is stored.

        Raises:
            UserError: The loss is not finite or has no gradient, the device runs out of memory, or the resume file
                belongs to another training or cannot be written.
        """
        run = self._prepare(network, gradients_of(loss), name=name, whole=whole, eps=eps, collapse=collapse)
        if frozen_layers:
            assert isinstance(network, nn.Sequential)
            run = replace(run, frozen=network[:frozen_layers], trained=network[frozen_layers:])
        self._train(replace(run, on_finish=on_finish))

    def fit_at_once(self, network: nn.Module, *, name: str) -> None:
        """Trains a network that learns from all examples at once, and not by gradients; the recipe has no part in it.

        Args:
            network: Contains a module that :func:`~.at_once.learner_in` finds.
            name: Identifies this training among those of the same trainer.

        Raises:
            UserError: It cannot learn from the examples.
        """
        started = time.perf_counter()
        learner = learner_in(network)
        assert learner is not None
        parts = [self.batch(indices) for indices in self.train_indices.split(self.recipe.batch_size)]
        images = torch.cat([inputs_of(learner, network, images) for images, _ in parts])
        learner.learn(images, torch.cat([labels for _, labels in parts]), seed=seed_from(self.seed, name))
        seconds = time.perf_counter() - started
        self._finished[name] = {"seconds": seconds}
        self._progress(TrainingProgress(name, 1, 1, None, seconds))
        network.eval()

    def fit_with_gradients(
        self,
        network: nn.Module,
        gradients: Gradients,
        *,
        name: str,
        whole: nn.Module | None = None,
        eps: float | Mapping[Norm, float] = 0,
        replays: int = 1,
        epochs: int | None = None,
        on_finish: Callable[[], None] = lambda: None,
    ) -> None:
        """Trains a network by gradients that the caller computes; see :meth:`fit`.

        Args:
            network: Images ``(B, C, H, W)`` to logits ``(B, K)``.
            gradients: Computes the mean loss over a batch and its gradients.
            name: Identifies this training among those of the same trainer.
            whole: The model that contains ``network``, if there is one. It is stored in the resume file too.
            eps: The radius in linf of the adversarial training, or its radii by norm. Held-out images are attacked at these.
            replays: How many times in a row each batch is used. The number of epochs is divided by it.
            epochs: The number of epochs; the recipe's by default.
            on_finish: See :meth:`fit`.
        """
        run = self._prepare(network, gradients, name=name, whole=whole, eps=eps)
        epochs = math.ceil((epochs or run.epochs) / replays)
        self._train(replace(run, replays=replays, epochs=epochs, on_finish=on_finish))

    def _prepare(
        self,
        network: nn.Module,
        gradients: Gradients,
        *,
        name: str,
        whole: nn.Module | None,
        eps: float | Mapping[Norm, float],
        collapse: Collapse | None = None,
    ) -> _Run:
        """Moves a network to the device, and makes what its training needs."""
        if learner_in(network) is not None:
            raise UserError(
                f"{name} follows gradients of the weights, and the model learns from all examples at once: give a defense that "
                "trains nothing, such as jpeg, or a network"
            )
        images = self.examples.batch(self.train_indices[:4])[0]
        self._loader.layout = move(network, self.device, images, layout=layout_for_training(network, self.device))
        self._processes.broadcast_first(network.state_dict().values())
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        radii: Mapping[Norm, float] = eps if isinstance(eps, Mapping) else {"linf": eps} if eps else {}
        held_out = partial(self._measure, radii=radii) if len(self.held_out_indices) else None
        selection = WeightSelection(
            network,
            decay=self.recipe.ema,
            swa_start=self.recipe.swa_start,
            held_out=held_out,
            recompute_statistics=self._recompute_statistics,
            collapse=collapse,
        )
        if self._processes.number > 1:
            gradients = data_parallel_gradients(gradients, self._processes)
        return _Run(
            name=name,
            network=network,
            frozen=None,
            trained=network,
            whole=whole or network,
            parameters=parameters,
            optimizer=self.recipe.build_optimizer(network),
            gradients=gradients,
            selection=selection,
            radii=radii,
            epochs=self.recipe.epochs,
            classes=self._classes(network, images),
        )

    def _train(self, run: _Run) -> None:
        """Runs the epochs that are left, and stores the state after each."""
        first, seconds = self._restore(run)
        if run.name in self._finished:
            first = run.epochs
        _set_modes(run.network)
        for epoch in range(first, run.epochs):
            started = time.perf_counter()
            loss = self._train_epoch(run, epoch)
            with _memory_errors_explained(run.name), self.seeded(run.name, epoch, "measured", *self._draw_key):
                collapsed = run.selection.after_epoch(epoch, run.epochs, loss)
            seconds += time.perf_counter() - started
            ended = collapsed or epoch + 1 == run.epochs
            note = self._finish(run, loss, seconds, epoch) if ended else ""
            self._store(run, epoch + 1, seconds)
            epochs = epoch + 1 if ended else run.epochs
            self._progress(TrainingProgress(run.name, epoch + 1, epochs, loss, seconds, note))
            if ended:
                break
        run.network.eval()

    def _train_epoch(self, run: _Run, epoch: int) -> float:
        """Trains for one epoch, and returns its mean loss."""
        batches = self._batches.of_epoch(seed_from(self.seed, run.name, epoch))
        steps, step = run.epochs * len(batches) * run.replays, epoch * len(batches) * run.replays
        losses: list[Tensor] = []
        shares = [batch[self.share] for batch in batches]
        with _memory_errors_explained(run.name), self.seeded(run.name, epoch, *self._draw_key):
            for rows, labels in self._loader.batches(shares, partial(self._rows, run)):
                for _ in range(run.replays):
                    self.fraction_done = step / steps
                    self.begins_epoch = not losses
                    losses.append(self._step(run, rows, labels, self.recipe.optimizer_values(step, steps)))
                    run.selection.after_step(step)
                    step += 1
        run.optimizer.zero_grad()
        sizes = [len(batch) for batch in batches for _ in range(run.replays)]
        # Read once an epoch, because the CPU waits for the GPU then.
        loss: float = sum(map(operator.mul, torch.stack(losses).tolist(), sizes)) / sum(sizes)
        if not math.isfinite(loss):
            raise UserError(f"{run.name} diverged in epoch {epoch + 1}, its loss is {loss}: give a lower lr")
        return loss

    def _finish(self, run: _Run, loss: float, seconds: float, epoch: int) -> str:
        """Selects the final weights and records the training; returns a note for the user."""
        measured: dict[str, dict[str, float]] = {}
        with _memory_errors_explained(run.name), self.seeded(run.name, epoch, "final", *self._draw_key):
            finals, self.finals = run.selection.finals(), {}
            for name, state in finals.items() if len(finals) > 1 else ():
                run.selection.load(state)
                run.on_finish()
                self.finals[name] = {key: tensor.cpu().clone() for key, tensor in run.whole.state_dict().items()}
                measured[name] = self._measure(run.network, radii=run.radii, only_held_out=True)
            note = run.selection.finish(finals)
        run.on_finish()
        # The last one is selected.
        weights = {"weights": measured} if measured else {}
        radii = {"eps" if norm == "linf" else f"eps_{norm}": eps for norm, eps in run.radii.items()}
        self._finished[run.name] = {"loss": loss, "seconds": seconds, **radii, **run.selection.metrics, **weights}
        return note

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Loads images ``(B, C, H, W)`` and labels ``(B,)`` to the trainer's device, in the network's memory layout.

        Args:
            indices: ``(B,)``, int64.
        """
        return self._loader.batch(indices)

    def average_gradients(
        self, gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], images: int
    ) -> Sequence[Tensor | None]:
        """Gradients of the mean loss over a batch, from the gradients on this process's share.

        A loss needs it if it uses a gradient itself, as adversarial weight perturbation does.

        Args:
            gradients: Those on the share. ``None`` if the loss does not depend on the parameter.
            parameters: The tensors that the gradients belong to.
            images: The number of images in the share.
        """
        return average_gradients(gradients, parameters, images, self._processes)

    def accuracy(self, network: nn.Module, indices: Tensor, attacks: Sequence[InnerPGD]) -> float:
        """The accuracy under PGD of a network in training; see :func:`~.adversarial.accuracy_under_pgd`.

        Args:
            network: The network in training.
            indices: The examples ``(n,)`` to measure it on. The processes share them.
            attacks: The attacks. An image counts if it is right under each of them.
        """
        share = indices[self.share]
        batches = self._loader.batches(share.split(self.recipe.batch_size))
        accuracy = 0.0
        if len(share):
            accuracy = accuracy_under_pgd(network, batches, attacks)
        # The product is a whole number except for rounding. A float64 sums whole numbers exactly.
        correct = torch.tensor(round(accuracy * len(share)), dtype=torch.float64, device=self.device)
        return self._processes.sum(correct).item() / len(indices)

    def _classes(self, network: nn.Module, images: Tensor) -> int:
        """The number of classes of a network's logits; 0 if no augmentation needs it."""
        if not any(augmentation.mixes_labels for augmentation in self._augmentations):
            return 0
        with frozen(network), torch.no_grad(), self.seeded("classes"):
            return int(network(images.to(self.device)).shape[-1])

    def _rows(self, run: _Run, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The input of the layers in training, augmented, and its labels."""
        images, labels = augment(self._augmentations, images, labels, run.classes)
        if run.frozen is None:
            return images, labels
        with self._autocast(), torch.no_grad():
            return run.frozen(images), labels

    def _autocast(self) -> torch.autocast:
        """The arithmetic of the layers in training."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _step(self, run: _Run, rows: Tensor, labels: Tensor, values: Mapping[str, float]) -> Tensor:
        """Takes one optimizer step with values such as its learning rate; returns the mean loss before it."""
        for group in run.optimizer.param_groups:
            group.update(values)
        with self._autocast(), smoothing_labels(self.recipe.label_smoothing) as smoothing:
            loss, gradients = run.gradients(run.trained, rows, labels, run.parameters)
        if smoothing.share and not smoothing.used:
            raise UserError(f"train.label_smoothing has no effect on this loss ({run.name}): leave it out")
        for parameter, gradient in zip(run.parameters, gradients, strict=True):
            parameter.grad = gradient if gradient is None else _with_layout_of(parameter, gradient)
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(run.parameters, self.recipe.clip_norm)
        run.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def _recompute_statistics(self, network: nn.Module) -> None:
        """Computes the batch statistics of the layers in training as the mean over all training images.

        torch's ``update_bn`` would do the same to frozen layers. A :class:`~.batched_ensemble.BatchedEnsemble` has no such
        layers, so its averaged statistics stay.
        """
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        with self._autocast():
            for images, _ in self._loader.batches(self.train_indices.split(self.recipe.batch_size)) if norms else ():
                network(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self._processes.broadcast_first(network.state_dict().values())

    def _measure(
        self, network: nn.Module, *, radii: Mapping[Norm, float], only_held_out: bool = False
    ) -> dict[str, float]:
        """The clean and robust accuracies on the held-out images and on as many training images, in [0, 1].

        PGD has the recipe's radius in linf, or else these radii, and the same draws in each epoch. Without a radius there is
        no robust accuracy.
        """
        if self.recipe.held_out_eps is not None:
            radii = {"linf": self.recipe.held_out_eps} if self.recipe.held_out_eps else {}
        steps = self.recipe.held_out_steps
        attacks = [
            InnerPGD(eps=eps, norm=norm, steps=steps, step_size=2.5 * eps / steps) for norm, eps in radii.items()
        ]
        sets = {"held_out_": self.held_out_indices} if len(self.held_out_indices) else {}
        if not only_held_out:
            sets[""] = self.train_indices[: len(self.held_out_indices)]
        values = {}
        with self.seeded("accuracies", *self._draw_key):
            for name, indices in sets.items():
                if attacks:
                    values[f"{name}robust"] = self.accuracy(network, indices, attacks)
                values[f"{name}clean"] = self.accuracy(network, indices, [])
        return values

    def _identity(self, model: nn.Module) -> dict[str, str]:
        """What must match for a training to be resumed, by its name in a message."""
        shapes = [(name, list(tensor.shape)) for name, tensor in model.state_dict().items()]
        return {
            "recipe": self.recipe.model_dump_json(),
            "seed": str(self.seed),
            "number of examples": str(len(self.examples) + self._batches.extra),
            "model": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
        }

    def _store(self, run: _Run, epoch: int, seconds: float) -> None:
        """Writes the resume file, if there is one, while the other processes wait."""
        if self._resume is None:
            return
        measured = run.selection.metrics
        is_finished = run.name in self._finished
        state = TrainingState(
            name=run.name,
            epoch=epoch,
            seconds=seconds,
            finished=self._finished,
            measured=measured,
            finals=list(self.finals) if is_finished else [],
        )
        write = partial(write_state, self._resume, state, self._identity(run.whole))
        copies = self.finals if is_finished else run.selection.copies
        self._processes.run_on_first(
            partial(write, whole=run.whole, network=run.network, optimizer=run.optimizer, copies=copies)
        )

    def _restore(self, run: _Run) -> tuple[int, float]:
        """Loads this training's state from the resume file; returns the finished epochs and the seconds spent."""
        if not self._resuming:
            return 0, 0.0
        assert self._resume is not None
        content = self._processes.run_on_first(partial(read_tensors, self._resume))
        resize_as_stored(run.whole, content)
        state = read_state(
            self._resume,
            content,
            self._identity(run.whole),
            name=run.name,
            whole=run.whole,
            network=run.network,
            optimizer=run.optimizer,
            copies=run.selection.copies,
        )
        self._finished, self.finals = state.finished, read_finals(state, content[0])
        # Networks that are finished are skipped until the one that was trained last.
        finished = run.name in self._finished
        self._resuming = finished and run.name != state.name
        if finished or run.name != state.name:
            return 0, 0.0
        run.selection.metrics |= state.measured
        return state.epoch, state.seconds


def _with_layout_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter. Fused optimizers assume equal layouts without a check."""
    if gradient.stride() == parameter.stride():
        return gradient
    # The stride of a dimension of length 1 has no meaning.
    strides = zip(gradient.stride(), parameter.stride(), parameter.shape, strict=True)
    if all(stride == expected or length == 1 for stride, expected, length in strides):
        return gradient.as_strided(parameter.shape, parameter.stride())
    return torch.empty_like(parameter).copy_(gradient)


def _set_modes(network: nn.Module) -> None:
    """Sets ``train()`` mode, except ``eval()`` mode where all parameters are frozen."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


@contextmanager
def _memory_errors_explained(name: str) -> Iterator[None]:
    """Turns an out-of-memory error into a :class:`UserError` that names the training."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{name} runs out of memory: give a smaller batch_size ({one_line(error)})") from error
