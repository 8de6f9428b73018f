"""Victims: linear models with closed-form adversarial distances, and a small network trained on the digits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.threat import distance


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small networks gain nothing from a second thread, and are slow if another process needs the core."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts with the same seed."""
    torch.manual_seed(0)


class Linear(nn.Module):
    """Logits ``scale * (W x + b) + shift``. Each row is summed separately, so it does not depend on its batch."""

    def __init__(self, weight: Tensor, bias: Tensor, *, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.scale = scale
        self.shift = shift

    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(1)[:, None, :] * self.weight
        return self.scale * (rows.sum(2) + self.bias) + self.shift


class NoiseLayer(nn.Module):
    """A model behind normal noise on its images, drawn for every row."""

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        self.model = model
        self.sigma = sigma

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images + self.sigma * torch.randn_like(images))
        return logits


class NoisyLogits(nn.Module):
    """Logits with normal noise, which every row draws for itself."""

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        self.model = model
        self.sigma = sigma

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits + self.sigma * torch.randn_like(logits)


@dataclass(frozen=True)
class Victim:
    """A model with images and their labels."""

    model: nn.Module
    images: Tensor
    labels: Tensor

    def accuracy(self, images: Tensor) -> float:
        """The accuracy on perturbed versions of the images."""
        with torch.no_grad():
            return (self.model(images).argmax(1) == self.labels).double().mean().item()


@dataclass(frozen=True)
class LinearVictim(Victim):
    """A linear model with images near the middle of the box, whose nearest adversarial images are known in closed form."""

    def distances(self, norm: str) -> Tensor:
        """``(N, K)``: the distance to the boundary of class j, ``(Z_y - Z_j) / |w_y - w_j|``; infinite for j = y.

        Args:
            norm: In ``linf`` and ``l2``, the formula has the dual norm, l1 or l2. In ``l1``, the pixel with the largest
                weight soon reaches the edge of the box, so pixels are moved to the edge one after another, the largest
                weight first. In ``l0`` too, the largest gain first, and the distance is the number of pixels.
        """
        model = self.model
        assert isinstance(model, Linear)
        labels = self.labels[:, None]
        with torch.no_grad():
            logits = (model(self.images) - model.shift) / model.scale
            differences = model.weight[labels] - model.weight[None]
        if norm == "l0":
            pixels = self.images.flatten(1)[:, None]
            gains = differences.abs() * torch.where(differences < 0, 1 - pixels, pixels)
            reached = gains.sort(2, descending=True).values.cumsum(2)
            needed = (reached <= (logits.gather(1, labels) - logits).unsqueeze(2)).sum(2) + 1.0
            return needed.scatter(1, labels, torch.inf)
        if norm == "l1":
            weights, order = differences.abs().sort(2, descending=True)
            pixels = self.images.flatten(1)[:, None]
            room = torch.where(differences < 0, 1 - pixels, pixels).gather(2, order)
            gained = (weights * room).cumsum(2) - weights * room
            rest = (logits.gather(1, labels) - logits).unsqueeze(2) - gained
            spent = torch.minimum((rest / weights).clamp_min(0), room)
            return spent.sum(2).scatter(1, labels, torch.inf)
        distances = (logits.gather(1, labels) - logits) / differences.norm(p=1 if norm == "linf" else 2, dim=2)
        return distances.scatter(1, labels, torch.inf)

    def radii(self, norm: str) -> Tensor:
        """``(N,)``: the exact distance to the nearest image of another class."""
        return self.distances(norm).amin(1)

    def nearest(self, norm: str) -> Tensor:
        """``(N,)``: the class of the nearest image of another class."""
        return self.distances(norm).argmin(1)

    def median_ratio(self, attack: Attack, norm: Any) -> float:
        """The median distance of the images that a minimal-norm attack finds, relative to that of the nearest ones.

        Args:
            attack: The attack. It must break every image.
            norm: Its norm.
        """
        perturbed = attack(self.model, self.images, self.labels, norm=norm)
        assert self.accuracy(perturbed) == 0
        return float((distance(perturbed, self.images, norm) / self.radii(norm)).median())

    def assert_falls_beyond_the_boundary(self, attack: Attack, norm: Any, excess: float) -> None:
        """At a radius a little above the distance to the boundary all images fall; a little below it none does.

        Args:
            attack: The attack.
            norm: Its norm.
            excess: The radius above the distance, as a multiple of it.
        """
        radii = self.radii(norm).double()
        for eps, accuracy in ((radii * excess, 0), (radii - 1e-3, 1)):
            assert self.accuracy(attack(self.model, self.images, self.labels, norm=norm, eps=eps)) == accuracy


def _linear_victim(classes: int, **keywords: float) -> LinearVictim:
    generator = torch.Generator().manual_seed(classes)
    # With large weights, the softmax is sharp, and the gradient of the cross-entropy points to the nearest class.
    weight = 20 * torch.randn(classes, 36, generator=generator)
    images = (0.5 + 0.1 * torch.randn(2000, 1, 6, 6, generator=generator)).clamp(0.2, 0.8)
    model = Linear(weight, -weight.sum(1) / 2, **keywords)
    with torch.no_grad():
        victim = LinearVictim(model, images, model(images).argmax(1))
    radii = victim.radii("linf")
    rows = ((radii > 0.01) & (radii < 0.1)).nonzero()[:24, 0]
    return LinearVictim(model, images[rows], victim.labels[rows])


@pytest.fixture(scope="session")
def linear_victim() -> Callable[..., LinearVictim]:
    """Makes a linear model with a number of classes; all images are classified correctly and near the middle of the box."""
    return _linear_victim


def _digits_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


@pytest.fixture(scope="session")
def trained_on_digits() -> Victim:
    """A small network trained on the digits, with 60 test images that it classifies correctly."""
    pixels, targets = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(targets)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        order = torch.randperm(len(images))
        images, labels = images[order], labels[order]
        model = _digits_cnn()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(12):
            for rows in torch.randperm(1297).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(images[rows]), labels[rows]).backward()
                optimizer.step()
    model.eval()
    images, labels = images[1297:], labels[1297:]
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).nonzero()[:60, 0]
    return Victim(model, images[right], labels[right])


@pytest.fixture
def digits_victim(trained_on_digits: Victim) -> Victim:
    """A small network trained on the digits, with 60 test images that it classifies correctly.

    Each test has its own copy of the network, so that none depends on what another one changed.
    """
    return replace(trained_on_digits, model=copy.deepcopy(trained_on_digits.model))
