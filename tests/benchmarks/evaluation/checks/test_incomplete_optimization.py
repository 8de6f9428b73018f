from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.incomplete_optimization import IncompleteOptimization

from .conftest import MakeProbe

CHECK = IncompleteOptimization("incomplete-optimization")
LABELS = torch.zeros(30, dtype=torch.int64)


class Brightest(nn.Module):
    """Two classes by the brightest pixel: each step moves only this one."""

    def forward(self, images: Tensor) -> Tensor:
        lead = 10 * images.flatten(1).amax(1)
        return torch.stack([lead, -lead], 1)


@pytest.mark.parametrize(("pixels", "found"), [(2, False), (4, False), (18, True), (25, True)])
def test_more_pixels_than_steps_take_too_long(make_probe: MakeProbe, pixels: int, found: bool) -> None:
    """Twenty steps move four pixels to the surface many times, and 18 pixels hardly once."""
    probe = make_probe(Brightest(), torch.full((30, 1, 1, pixels), 0.5), LABELS)
    finding = CHECK.finding_in_model(probe)
    assert (finding is not None) == found
    if finding is not None:
        assert finding.evidence.startswith("the last 5 steps of PGD with 20 steps bring ")
        assert finding.figures["gain"] > 0.4


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_slope_is_climbed_in_one_step(make_probe: MakeProbe, factor: float) -> None:
    """And a constant loss has no rise."""

    class Slope(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            lead = 1 + factor * images.flatten(1)[:, 0]
            return torch.stack([lead, -lead], 1)

    assert CHECK.finding_in_model(make_probe(Slope(), torch.full((30, 1, 1, 1), 0.5), LABELS)) is None
