"""The flag of a model against which a transfer attack from a plain network is stronger than PGD on the model."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.rng import seed_from, seed_generators
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.second_attack import (
    PGDOnSurrogate,
    second_attack,
    second_attack_passes,
)

__all__ = ["TransferBeatsGradient"]

_ALLOWED = 0.1
"""The share of the images left by PGD on the model that the transfer attack may break.

In the gallery, it breaks none of those of honest deterministic models, and 28 to 48 % of those behind a masked gradient.
"""

_WIDTH = 16
"""The channels of the surrogate's first layer; the second has twice as many."""

_NUMBERS = 2**24
"""The most pixels on which the surrogate is trained, in one epoch."""


class TransferBeatsGradient(Check):
    """The surrogate is a small network, trained on the training images without a defense."""

    text: ClassVar[str] = (
        "images made on an undefended network of our own break clearly more than PGD on the model: its gradients are masked"
    )
    severity: ClassVar[Severity] = "broken"
    raised_when: ClassVar[str] = (
        "PGD on a small convolutional network, trained here without a defense, breaks more than 10 % of the images that the baseline "
        "attack left, by an exact binomial test at level 0.001; or for a randomized model, it leaves fewer of the same images, by a "
        "paired test at that level."
    )
    why: ClassVar[str] = (
        "An attack that never queries the model should find less than one that follows its gradients. If it finds more, these "
        "mislead."
    )
    remedy: ClassVar[str] = (
        "Attack the cause: a differentiable approximation of the layer (BPDA), EOT, a loss of the margin; more steps and restarts."
    )
    source: ClassVar[str] = (
        "Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 3.1; Tramer, Kurakin, "
        "Papernot et al.: Ensemble Adversarial Training. ICLR 2018"
    )
    budget: ClassVar[Budget] = "standard"
    needs: ClassVar[tuple[Need, ...]] = ("baseline", "training")

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        surrogate = _trained(probe)
        stronger = second_attack(probe, _attack(probe, surrogate), allowed=_ALLOWED)
        if stronger is None:
            return None
        return self.finding(f"PGD on another network {stronger.evidence}", severity=self.severity, **stronger.figures)

    def passes(self, probe: ModelProbe) -> int:
        return second_attack_passes(probe, _attack(probe, None))


def _attack(probe: ModelProbe, surrogate: nn.Module | None) -> PGDOnSurrogate:
    return PGDOnSurrogate(steps=20, surrogate=surrogate)


def _trained(probe: ModelProbe) -> nn.Module:
    """A small network after a few epochs of Adam."""
    assert probe.training is not None
    images, labels = probe.training()
    seed_generators(seed_from(probe.seed, "transfer"))
    count = min(len(images), max(1, _NUMBERS // images[0].numel()), probe.effort(2000, 5000, 20000))
    chosen = torch.randperm(len(images))[:count]
    images, labels = images[chosen].to(probe.images), labels[chosen].to(probe.labels)
    network = _network(probe.images, probe.classes)
    epochs, size = 4, 64
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    with torch.enable_grad():
        for _ in range(epochs):
            for part in torch.randperm(count).split(size):
                optimizer.zero_grad()
                functional.cross_entropy(network(images[part]), labels[part]).backward()
                optimizer.step()
    return network.eval()


def _network(images: Tensor, classes: int) -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(images.shape[1], _WIDTH, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(_WIDTH, 2 * _WIDTH, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        nn.Linear(2 * _WIDTH * 49, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )
    return network.to(images)
