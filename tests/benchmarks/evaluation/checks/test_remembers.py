from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.remembers import remembers
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


class Counting(nn.Module):
    """A network whose logits shift once it has answered some queries."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.queries = network, 0

    def forward(self, images: Tensor) -> Tensor:
        self.queries += 1
        logits: Tensor = self.network(images)
        return logits + (torch.arange(10.0) if self.queries > 20 else 0)


class CountingOutside(nn.Module):
    """The same with a count in an attribute of its class, which its copies share."""

    queries = 0

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        type(self).queries += 1
        logits: Tensor = self.network(images)
        return logits + (torch.arange(10.0) if self.queries > 20 else 0)


def test_a_model_that_changes_with_its_queries_is_flagged(network: nn.Module, images: Tensor) -> None:
    """Its fresh copy still gives the first predictions."""
    labels = network(images).argmax(1)
    for model in (Counting(network), CountingOutside(network)):
        assert "remembers" in evaluate(model, images, labels, attack=PGD(steps=25), eps=0.05).flags
    assert evaluate(network, images, labels, attack=PGD(steps=25), eps=0.05).flags == ()


def test_two_models_are_compared_logit_by_logit(images: Tensor) -> None:
    """Up to rounding."""
    indices = torch.arange(len(images))

    def logits(images: Tensor, indices: Tensor) -> Tensor:
        return images.flatten(1)[None, :, :10]

    assert not remembers(logits, lambda *given: logits(*given) * (1 + 1e-7), images, indices)
    assert remembers(logits, lambda *given: logits(*given) + 1e-3, images, indices)
