from __future__ import annotations

import random

from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


class PythonNoise(nn.Module):
    """A network with noise from Python's generator."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images + 0.2 * random.random())
        return logits


def test_noise_without_a_seed_raises_this_flag_alone(network: nn.Module, noisy: nn.Module, images: Tensor) -> None:
    """It explains other predictions in another batch, and of a fresh copy, by itself; torch's own noise raises nothing."""
    labels = network(images).argmax(1)
    assert evaluate(PythonNoise(network), images, labels, attack=PGD(steps=2), eps=0.05).flags == ("not-repeatable",)
    assert evaluate(noisy, images, labels, attack=PGD(steps=2), eps=0.05).flags == ()
