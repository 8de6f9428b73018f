"""Chooses epochs, batch size, learning rate, normalization and steps of the attack so that a training keeps to a budget of time or of passes."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_cli.benchmarks.checkpoints.checkpoint import read_info, require_writable
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.benchmarks.training.train import Training, measure_epoch
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.training.adversarial import AttackInTraining

__all__ = ["Budget", "BudgetChoice", "keep_to"]

BATCH_SIZES = (64, 128, 256, 512)
"""The candidates for the batch size on a GPU: the smallest whose images take at most 1.25 times as long as the fastest's is
chosen. On a CPU, where small batches cost little, it is the first, or :data:`CPU_BATCH`."""

CPU_BATCH = 32
"""The batch size of an adversarial training on a CPU: a budget there pays for few steps, so they are small."""

CPU_RATES = (8e-3, 4e-3)
"""The maximum learning rate of such a training, with fewer than :data:`MANY_STEPS` steps and with more. On Fashion-MNIST at 0.1, the
larger one left 76 % of 1,000 images after 2,700 steps, where batches of 64 at 0.004 left 71 %. After 6,600 steps it left 75 % of 500
images, and the smaller one 76 %, or 78 % with normalized images."""

MANY_STEPS = 4000
"""From here on, the smaller learning rate is chosen."""

ATTACKS = ((10, 0.25), (5, 0.4), (3, 0.5))
"""The candidates for the attack: its steps, and their size in radii. The first that leaves :data:`EPOCHS` is chosen."""

EPOCHS = 30
"""Within a budget, epochs are worth more than steps of the attack up to here: on Fashion-MNIST at 0.1, 3 steps in batches of 64
left 11 to 14 points more than 10 steps in batches of 128 with as many passes."""

MOST_EPOCHS = 1_000_000
"""The most epochs that a budget may pay for."""

_SHORTEST = 0.5
"""Seconds that a measurement takes at least, unless it has all images."""


class Budget(BaseModel):
    """What a training may take.

    Attributes:
        seconds: On this device.
        passes: Images that pass forward through the network, those of the attack included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float | None = Field(None, gt=0)
    passes: int | None = Field(None, ge=1)


class BudgetChoice(Budget):
    """What was chosen for a budget; a part of the checkpoint's record, so that the same command chooses the same again.

    Attributes:
        of: The key of the training with its values before the choice.
        epochs: The number of epochs.
        epoch_fraction: The fraction of the training images that an epoch takes, so that the epochs use the whole budget.
        batch_size: The largest number of images in a step.
        lr: The maximum learning rate; ``None`` if it was not chosen.
        mean: The mean of the normalization, one number per channel; ``None`` if it was not chosen.
        std: The standard deviation of the normalization.
        steps: The number of steps of the attack in training; ``None`` if it was not chosen.
        step_size: The size of these steps.
        passes_per_second: As measured.
    """

    of: str
    epochs: int = Field(ge=1)
    epoch_fraction: float = Field(1, gt=0, le=1)
    batch_size: int = Field(ge=1)
    lr: float | None = Field(None, gt=0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    steps: int | None = Field(None, ge=1)
    step_size: float | None = Field(None, gt=0)
    passes_per_second: float = Field(gt=0)

    @property
    def label(self) -> str:
        """The choice in a few words."""
        attack = "" if self.steps is None else f", {self.steps} steps of {self.step_size:.3g}"
        rate = "" if self.lr is None else f", learning rate {self.lr:g}"
        mean, std = (",".join(map(repr, numbers or ())) for numbers in (self.mean, self.std))
        normalized = f", --mean {mean} --std {std}" if mean else ""
        part = f" of {self.epoch_fraction:.0%} of the images" if self.epoch_fraction < 1 else ""
        return (
            f"{self.epochs} epoch{'s'[: self.epochs > 1]}{part}, batches of {self.batch_size}{rate}{attack}{normalized} "
            f"({self.passes_per_second:,.0f} passes a second)"
        )


def keep_to(
    budget: Budget,
    training: Training,
    path: Path,
    *,
    given: Collection[str],
    device: torch.device,
    data_dir: Path | None = None,
) -> tuple[Training, BudgetChoice]:
    """The training with epochs, batch size, learning rate, normalization and steps for a budget, from measured passes per second.

    Args:
        budget: The budget.
        training: The training.
        path: Its checkpoint. If it exists, or an unfinished training to it, the choice is the one made there.
        given: What the user gave, which stays: ``train.batch_size``, ``train.lr``, and ``NAME.steps`` and ``NAME.step_size`` of a
            defense. The learning rate stays also beside another optimizer, schedule or batch size.
        device: Where to train.
        data_dir: The folder of downloaded data sets.

    Returns:
        The training, and what was chosen.

    Raises:
        UserError: Nothing is trained, the budget is less than a step or more than :data:`MOST_EPOCHS`, or the checkpoint cannot
            be written.
    """
    if not training.learns_after(None):
        raise UserError(f"{training.label} trains nothing: leave --seconds and --passes out")
    state = path.with_name(f"{path.name}.budget.partial")
    choice = _earlier(budget, training, path, state)
    if choice is None:
        require_writable(path)
        choice = _choose(budget, training, given=given, device=device, data_dir=data_dir)
        write_atomically(state, choice.model_dump_json().encode())
    chosen = choice.model_dump(include={"epochs", "epoch_fraction", "batch_size", "lr"}, exclude_none=True)
    normalization = choice.model_dump(include={"mean", "std"}, exclude_none=True)
    recipe = {**training.recipe, **chosen}
    specs = list(training.defenses)
    index = _attack_of(training)
    if choice.steps is not None and index is not None:
        spec = specs[index]
        values = {"steps": choice.steps, "step_size": choice.step_size}
        changed = tuple(dict.fromkeys((*spec.changed, *values)))
        specs[index] = spec.model_copy(update={"parameters": {**spec.parameters, **values}, "changed": changed})
    updates = {"recipe": recipe, "defenses": tuple(specs), "budget": choice.model_dump(mode="json")}
    return training.model_copy(update=updates | normalization), choice


def _earlier(budget: Budget, training: Training, path: Path, state: Path) -> BudgetChoice | None:
    """The choice of an earlier run of the same command; ``None`` if there was none."""
    found: list[Any] = []
    if path.is_file():
        info = read_info(path, named=(training.model, *(spec.name for spec in training.all_defenses)))
        found.append({} if info is None else info.training.get("budget"))
    if state.is_file():
        with contextlib.suppress(ValueError):
            found.append(json.loads(state.read_bytes()))
    for record in found:
        try:
            choice = BudgetChoice.model_validate(record)
        except ValidationError:
            continue
        if (choice.seconds, choice.passes, choice.of) == (budget.seconds, budget.passes, training.key):
            return choice
    return None


def _choose(
    budget: Budget, training: Training, *, given: Collection[str], device: torch.device, data_dir: Path | None
) -> BudgetChoice:
    """Measures the candidates and chooses."""
    split = load_dataset(training.dataset, data_dir=data_dir).split("train")
    examples = len(split)

    def measured(candidate: Training) -> tuple[float, float]:
        return _epoch_cost(candidate, examples, device=device, data_dir=data_dir)

    index = _attack_of(training)
    small = device.type == "cpu" and index is not None and "train.batch_size" not in given
    sizes = (CPU_BATCH,) if small else _batch_sizes(training, given, device)
    attacks: Sequence[tuple[int, float] | None] = [None]
    if index is not None:
        spec = training.defenses[index]
        # A training on single steps, as soae-at, is another method with more of them.
        if spec.parameters["steps"] > 1 and not {f"{spec.name}.steps", f"{spec.name}.step_size"} & set(given):
            attacks = ATTACKS
    fewest = _with(training, index, attacks[-1])
    by_size = {
        size: measured(fewest.model_copy(update={"recipe": {**fewest.recipe, "batch_size": size}}))
        for size in sizes
        if size <= max(examples // 4, sizes[0])
    }
    fastest = min(seconds for seconds, _ in by_size.values())
    size = next(size for size, (seconds, _) in by_size.items() if seconds <= 1.25 * fastest)
    seconds, passes = by_size[size]
    for attack in attacks:
        more = 0 if attack is None else (attack[0] - ATTACKS[-1][0]) * examples
        cost = (passes + more) if budget.passes is not None else seconds * (passes + more) / passes
        affordable = (budget.passes or budget.seconds or 0) / cost
        if affordable >= EPOCHS:
            break
    replays = max((getattr(spec.build(defenses), "replays", 1) for spec in training.defenses), default=1)
    batch = min(size / examples, 1)
    if affordable < replays * batch:
        least = cost * replays * batch
        enough = (
            f"--passes {math.ceil(round(least, 6))}" if budget.passes is not None else f"--seconds {1.05 * least:.2g}"
        )
        raise UserError(f"the budget is less than a step with {size} images here: give at least {enough}")
    if affordable > MOST_EPOCHS:
        raise UserError(f"the budget is for more than {MOST_EPOCHS:,} epochs here: give less")
    epochs = replays * math.ceil(affordable / replays)
    eps = None if index is None or attack is None else training.defenses[index].parameters["eps"]
    return BudgetChoice(
        **budget.model_dump(),
        of=training.key,
        epochs=epochs,
        epoch_fraction=affordable / epochs,
        batch_size=size,
        **(_for_small_steps(training, split, affordable * examples / size, given) if small else {}),
        steps=None if attack is None else attack[0],
        step_size=None if attack is None or eps is None else attack[1] * eps,
        passes_per_second=passes / seconds,
    )


def _batch_sizes(training: Training, given: Collection[str], device: torch.device) -> Sequence[int]:
    """The candidates for the batch size of any other training."""
    if "train.batch_size" in given:
        return (training.recipe["batch_size"],)
    return BATCH_SIZES[:1] if device.type == "cpu" else BATCH_SIZES


def _for_small_steps(training: Training, split: Split, steps: float, given: Collection[str]) -> dict[str, Any]:
    """The learning rate and the normalization of an adversarial training on a CPU, unless they are given."""
    chosen: dict[str, Any] = {}
    # Each optimizer and each schedule has rates of its own.
    if not {"train.lr", "train.optimizer", "train.schedule"} & set(given):
        chosen["lr"] = CPU_RATES[steps >= MANY_STEPS]
    # A user's own network, published weights and a checkpoint may normalize by themselves.
    if training.mean is None and training.base is None and training.weights is None and training.model_source is None:
        chosen["mean"], chosen["std"] = _statistics(split)
    return chosen


def _statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation of each channel, of 1,000 images to three digits."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    # In small batches, since images may be large.
    batches = (split.batch(part)[0].double() for part in order[:1000].split(50))
    of_images = torch.cat([torch.stack([batch.mean((2, 3)), batch.square().mean((2, 3))]) for batch in batches], dim=1)
    means, squares = of_images.mean(1)
    stds = (squares - means.square()).clamp_min(1e-4).sqrt()
    return tuple(round(value, 3) for value in means.tolist()), tuple(round(value, 3) for value in stds.tolist())


def _epoch_cost(
    candidate: Training, examples: int, *, device: torch.device, data_dir: Path | None
) -> tuple[float, float]:
    """Seconds and passes of an epoch of all examples, measured on the first ones after a warm-up."""
    images = 4 * candidate.recipe["batch_size"]
    while True:
        images = min(images, examples)
        measure_epoch(
            candidate, images=min(2 * candidate.recipe["batch_size"], images), device=device, data_dir=data_dir
        )
        seconds, passes = measure_epoch(candidate, images=images, device=device, data_dir=data_dir)
        if seconds >= _SHORTEST or images == examples:
            return seconds * examples / images, passes * examples / images
        images *= 4


def _attack_of(training: Training) -> int | None:
    """The index of the last defense that trains on images from PGD."""
    kinds = [defenses.load(spec.name) for spec in training.defenses]
    return next((index for index in reversed(range(len(kinds))) if issubclass(kinds[index], AttackInTraining)), None)


def _with(training: Training, index: int | None, attack: tuple[int, float] | None) -> Training:
    """The training with another attack."""
    if index is None or attack is None:
        return training
    specs = list(training.defenses)
    specs[index] = specs[index].model_copy(update={"parameters": {**specs[index].parameters, "steps": attack[0]}})
    return training.model_copy(update={"defenses": tuple(specs)})
