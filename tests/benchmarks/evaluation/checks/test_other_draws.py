from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


class TwoDraws(nn.Module):
    """A network on the image or on its mirror image."""

    number_of_draws = 2
    cost_of_all_draws = 2.0

    def __init__(self, network: nn.Module, mirrored: int) -> None:
        super().__init__()
        self.network, self.mirrored = network, mirrored

    def all_draws(self, images: Tensor) -> Tensor:
        return torch.stack([self.network(images), self.network(images.flip(3))])

    def forward(self, images: Tensor) -> Tensor:
        both = torch.stack([self.network(images), self.network(images.flip(self.mirrored))])
        return both[torch.randint(2, (len(images),)), torch.arange(len(images))]


def test_an_enumeration_of_other_draws_is_flagged(network: nn.Module, images: Tensor) -> None:
    """A model that mirrors along another axis than its enumeration says."""
    labels = network(images).argmax(1)
    for axis, raised in ((3, False), (2, True)):
        flags = evaluate(TwoDraws(network, axis), images, labels, attack=PGD(steps=2), eps=0.05).flags
        assert ("other-draws" in flags) == raised
