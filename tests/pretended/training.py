"""Trainings on a pretended device: the launches of a step, and the batches that are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.datasets.base.split import TensorSplit
from robustbench_cli.benchmarks.models.small_cnn import SmallCNN
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.loading import Examples, Loader
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from tests.pretended.device import pretended

__all__ = ["launches_by_channels", "loaded"]

ROOT = Path(__file__).parents[2]

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def launches_by_channels(name: str) -> dict[str, Any]:
    """Launches and synchronizations of a training step with few and with many channels of HRS, and without HRS."""
    hrs, _, last = name.partition("+")
    without = last or "none"
    return {
        "few": of_a_step([(hrs, {"channels": (2, 2)}), (last, {})]),
        "many": of_a_step([(hrs, {"channels": (6, 6)}), (last, {})]),
        "without": of_a_step([(without, {})]),
    }


def of_a_step(chain: list[tuple[str, dict[str, Any]]]) -> list[float]:
    """The launches and the synchronizations of a step of the last training: the difference of two, by their steps."""
    low, high = (counted(chain, steps) for steps in (2, 6))
    return [(more - less) / 4 for less, more in zip(low, high, strict=True)]


def counted(chain: list[tuple[str, dict[str, Any]]], steps: int) -> list[int]:
    """The launches and the synchronizations of a training of some steps of 8 images."""
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (8 * steps, 1, 8, 8), dtype=torch.uint8), torch.arange(8 * steps) % 10
    model: nn.Module = SmallCNN(shape=(1, 8, 8), classes=10)
    for name, parameters in chain:
        if name:
            defense: Defense = defenses.load(name)(**parameters).for_radius(0.1)
            model = defense.protect(model, torch.zeros(1, 1, 8, 8))
    with pretended(ROOT) as cuda:
        trainer = Trainer(TensorSplit(images, labels), Recipe(epochs=1, batch_size=8), seed=0, device=CUDA)
        defense.fit(model.to(CUDA), trainer)
        return [sum(cuda.launches.values()), sum(cuda.synchronizations.values())]


class Streamed:
    """Examples without tensors."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.examples.batch(indices)


def loaded(kind: str) -> dict[str, Any]:
    """Whether the batches on a device are those of the CPU to the last bit, and the calls of a generation of six batches."""
    torch.manual_seed(0)
    images: Tensor = torch.arange(256, dtype=torch.uint8).repeat(15).reshape(80, 3, 4, 4)
    split = TensorSplit(images / 255 if kind == "float32" else images, torch.arange(80))
    examples = Streamed(split) if kind == "streamed" else split
    batches, calls = torch.randperm(80).tensor_split(6), [0]

    def prepare(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        calls[0] += 1
        return rows, labels

    expected = list(Loader(examples, CPU).batches(batches))
    with pretended(ROOT) as cuda:
        loader = Loader(examples, CUDA)
        cuda.reset()
        found = list(loader.batches(batches, prepare))
        launches, waits = sum(cuda.launches.values()), sum(cuda.synchronizations.values())
        same = all(
            rows.is_cuda and torch.equal(rows.cpu(), others) and torch.equal(labels.cpu(), other_labels)
            for (rows, labels), (others, other_labels) in zip(found, expected, strict=True)
        )
        single, _ = loader.batch(batches[0])
        same = same and torch.equal(single.cpu(), expected[0][0])
    return {"same": same, "calls": calls[0], "launches": launches, "synchronizations": waits}
