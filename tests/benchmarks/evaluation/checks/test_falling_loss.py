from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.base.finding import UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.falling_loss import FallingLoss

from .conftest import MakeProbe

CHECK = FallingLoss("falling-loss")
IMAGES, LABELS = torch.full((20, 1, 2, 2), 0.5), torch.zeros(20, dtype=torch.int64)


class Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:  # type: ignore[override]
        ctx.factor = factor
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.factor * gradient, None


class Slope(nn.Module):
    """Two classes by the mean of the pixels."""

    def __init__(self, factor: float, noise: float = 0.0) -> None:
        super().__init__()
        self.factor, self.noise = factor, noise

    def forward(self, images: Tensor) -> Tensor:
        seen: Tensor = Scaled.apply(images, self.factor)  # type: ignore[no-untyped-call]
        lead = seen.mean((1, 2, 3)) - 0.2 + self.noise * torch.randn(len(images))
        return torch.stack([lead, -lead], 1)


@pytest.mark.parametrize(("factor", "height"), [(1.0, None), (0.01, None), (-1.0, 0.0), (0.0, None)])
def test_a_reversed_gradient_leads_down(make_probe: MakeProbe, factor: float, height: float | None) -> None:
    """From the random start to the point with the lowest loss. A gradient of zero changes nothing, which other checks report."""
    finding = CHECK.finding_in_model(make_probe(Slope(factor), IMAGES, LABELS))
    assert (None if finding is None else finding.figures["height"]) == height


def test_sampled_draws_are_not_judged(make_probe: MakeProbe) -> None:
    """The loss of each step has a sample of its own."""
    with pytest.raises(UndecidedError, match="sample of draws"):
        CHECK.finding_in_model(make_probe(Slope(1.0, noise=0.01), IMAGES, LABELS))
