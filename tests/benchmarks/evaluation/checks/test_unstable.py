from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


class Dependent(nn.Module):
    """A network that adds 10 to the first logit of bright images, and in large batches to the second one of the others."""

    def __init__(self, network: nn.Module, fewest: int) -> None:
        super().__init__()
        self.network, self.fewest = network, fewest

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        bright = images.mean((1, 2, 3))[:, None] > 0.5
        others = 10 * torch.eye(10)[1] * (len(images) >= self.fewest)
        return logits + torch.where(bright, 10 * torch.eye(10)[0], others)


class Mixed(nn.Module):
    """Compares rows with the first of the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return (images - images[:1]).flatten(1)[:, :5]


def flags(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[str, ...]:
    return evaluate(model, images, labels, attack=PGD(steps=2), eps=0.05).flags


def test_a_model_that_mixes_rows_is_unstable(network: nn.Module, images: Tensor) -> None:
    """Rows that are compared with the batch's first row depend on their order; those of a network do not."""
    assert "unstable" not in flags(network, images, network(images).argmax(1))
    assert "unstable" in flags(Mixed(), images, torch.zeros(len(images), dtype=torch.int64))


def test_a_model_with_batch_statistics_is_unstable(network: nn.Module) -> None:
    """The order of the rows does not matter to it, but the choice of the rows does."""
    images = torch.rand(64, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), network, nn.Linear(10, 10))
    assert "unstable" in flags(model, images, model(images).argmax(1))


@pytest.mark.parametrize("fewest", [2, 65, 100])
def test_an_answer_that_depends_on_the_size_of_the_batch_is_unstable(network: nn.Module, fewest: int) -> None:
    """Also if only batches larger than those of the check differ, and a model without draws is not taken for a randomized one."""
    images = torch.linspace(0.3, 0.9, 100)[:, None, None, None].expand(-1, 1, 12, 12).contiguous()
    labels = (images.mean((1, 2, 3)) < 0.5).long()
    result = evaluate(Dependent(network, fewest), images, labels, attack=PGD(steps=2), eps=0.05, batch_size=100)
    assert "unstable" in result.flags
    assert result.outcomes.perturbed.shape[1] == 1
    assert "unstable" not in flags(Dependent(network, 1), images, labels)
