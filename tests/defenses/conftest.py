"""Digits to train on, and the network that they are trained with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress


@dataclass(frozen=True)
class InMemory:
    """Examples held as two tensors."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[indices], self.labels[indices]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Networks of this size gain nothing from a second thread, and lose much where another process needs the core."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> tuple[InMemory, InMemory]:
    """scikit-learn's digits in a fixed random order: 1297 to train on, 500 to test on."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    rows = (torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16)[order]
    targets = torch.tensor(labels)[order]
    return InMemory(rows[:1297], targets[:1297]), InMemory(rows[1297:], targets[1297:])


def _network() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 16, 3, padding=1),
            relu2=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv3=nn.Conv2d(16, 32, 3, padding=1),
            relu3=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(128, 64),
            relu4=nn.ReLU(),
            fc2=nn.Linear(64, 10),
        )
    )


@pytest.fixture(scope="session")
def network() -> Callable[[], nn.Module]:
    """Builds a small network for the digits, with fresh weights from torch's generator."""
    return _network


def _normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16, 8),
        nn.ReLU(),
        nn.Linear(8, 10),
    )


@pytest.fixture
def normed() -> Callable[[], nn.Module]:
    """Builds a tiny network with batch statistics and dropout."""
    return _normed


def _accuracy(model: nn.Module, examples: InMemory) -> float:
    with torch.no_grad():
        return (model(examples.images).argmax(1) == examples.labels).double().mean().item()


@pytest.fixture
def accuracy() -> Callable[[nn.Module, InMemory], float]:
    """The share that one pass of a model gets right."""
    return _accuracy


@pytest.fixture
def assert_resumes(
    digits: tuple[InMemory, InMemory], tmp_path: Path
) -> Callable[[Defense, Callable[[], nn.Module], int], None]:
    """Checks that a training of six short epochs, stopped after one of them and resumed, ends with the same weights bit by bit."""

    def check(defense: Defense, build: Callable[[], nn.Module], stop: int) -> None:
        finished = 0

        def after_epoch(_: TrainingProgress) -> None:
            nonlocal finished
            finished += 1
            if finished == stop:
                raise KeyboardInterrupt

        def weights(**options: Any) -> dict[str, Tensor]:
            torch.manual_seed(0)
            model = defense.protect(build(), torch.zeros(1, 1, 8, 8))
            recipe = Recipe(epochs=6, epoch_fraction=0.1)
            defense.fit(model, Trainer(digits[0], recipe, seed=0, device=torch.device("cpu"), **options))
            return model.state_dict()

        whole = weights()
        with pytest.raises(KeyboardInterrupt):
            weights(resume=tmp_path / "state", progress=after_epoch)
        resumed = weights(resume=tmp_path / "state")
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())

    return check
