from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.unstable import is_unstable


def unstable(model: Callable[[Tensor], Tensor], images: Tensor) -> bool:
    with torch.no_grad():
        return is_unstable(lambda images, _: model(images)[None], images, torch.arange(len(images)))


def test_a_model_that_mixes_rows_is_unstable(network: nn.Module, images: Tensor) -> None:
    """Rows that are compared with the batch's first row depend on their order; those of a network do not."""
    assert not unstable(network, images)

    def mixed(images: Tensor) -> Tensor:
        return (images - images[:1]).flatten(1)[:, :5]

    assert unstable(mixed, images)


def test_a_model_with_batch_statistics_is_unstable(network: nn.Module) -> None:
    """The order of the rows does not matter to it, but the choice of the rows does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.rand(64, 1, 12, 12)
        model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), network, nn.Linear(10, 10)).eval()
        assert unstable(model, images)
