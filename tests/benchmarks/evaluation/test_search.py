from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.context import RunContext
from robustbench_cli.benchmarks.evaluation.device_images import DeviceImages
from robustbench_cli.benchmarks.evaluation.evaluate import _search
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions
from robustbench_cli.benchmarks.evaluation.search import AttackSearch
from robustbench_cli.benchmarks.evaluation.setup import Setup

IMAGES = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


class Linear(nn.Module):
    """A linear model of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.randn(16, 3, generator=torch.Generator().manual_seed(1)))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = images.flatten(1) @ self.weights
        return logits


def search(**options: Any) -> AttackSearch:
    measured = MeasuredModel(Linear().eval(), IMAGES)
    setup = Setup(
        attack=PGD(steps=5),
        options=EvaluationOptions(**{"eps": 0.1} | options),
        attacked=measured,
        followed=measured,
        classes=3,
    )
    return _search(setup, None, DeviceImages(IMAGES, torch.device("cpu")), LABELS, RunContext())


def test_a_batch_counts_its_own_passes() -> None:
    """Two batches cost what their images cost: five steps back per image, whatever ran before."""
    attack = search()
    first = attack.run(torch.arange(8))
    second = attack.run(torch.arange(8, 12))
    assert (first.backwards, second.backwards) == pytest.approx((40, 20), abs=40)
    assert first.forwards > first.backwards
    assert second.backwards <= 20
    assert (first.without_gradient, first.flags) == (0, frozenset())


def test_an_image_has_one_result_in_any_batch() -> None:
    """Its random start depends on its index."""
    whole = search().run(torch.arange(12))
    part = search().run(torch.arange(8, 12))
    assert torch.allclose(part.perturbed, whole.perturbed[8:], atol=1e-6)
    assert part.indices.tolist() == [8, 9, 10, 11]
    assert (part.outcomes["perturbed"] == whole.outcomes["perturbed"][..., 8:]).all()


def test_each_target_has_its_own_outcomes() -> None:
    """Two wrong classes, and distances inside the ball."""
    result = search(targeted="all").run(torch.arange(12))
    assert result.outcomes["targets"].shape == (2, 12)
    assert result.outcomes["distance"].max() <= 0.1 + 1e-6
