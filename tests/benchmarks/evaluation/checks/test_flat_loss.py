from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.evaluation.checks.base.finding import UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.flat_loss import FlatLoss, steepness

from .conftest import MakeProbe

CHECK = FlatLoss("flat-loss")
IMAGES = torch.tensor([0.2, 0.8]).repeat(8).view(-1, 1, 1, 1)


class Steps(nn.Module):
    """Two classes by one pixel, with a small slope outside of 0.45 to 0.55 and the rest of the change inside."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, 0] - 0.5
        inside = pixel.clamp(-0.05, 0.05)
        # From 0.2 to 0.8 the lead changes by 0.6, as with a slope of 1.
        lead = self.slope * (pixel - inside) + (0.6 - 0.5 * self.slope) / 0.1 * inside
        return torch.stack([-lead, lead], 1)


@pytest.mark.parametrize(("slope", "found"), [(1.0, False), (0.5, False), (0.2, True), (0.01, True)])
@pytest.mark.parametrize("eps", [0.001, 0.1])
def test_the_slope_in_the_ball_counts(make_probe: MakeProbe, slope: float, found: bool, eps: float) -> None:
    """Relative to the mean slope of 1 on the way to an image of the other class, at any radius."""
    probe = make_probe(Steps(slope), IMAGES, eps=eps)
    assert steepness(probe, torch.arange(16)).tolist() == pytest.approx([slope] * 16, rel=0.1)
    finding = CHECK.finding_in_model(probe)
    assert (finding is not None) == found
    if finding is not None:
        assert finding.figures["steepness"] == pytest.approx(slope, rel=0.1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_linear_model_is_at_least_as_steep_as_the_way(make_probe: MakeProbe, norm: Norm) -> None:
    """The gradient is the steepest direction (the inequality of Hölder), in every norm."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    model[1].weight.data = torch.randn(3, 36, generator=generator)
    model[1].bias.data = -0.5 * model[1].weight.data.sum(1)
    images = 0.2 + 0.6 * torch.rand(32, 1, 6, 6, generator=generator)
    probe = make_probe(model, images, norm=norm, eps=0.05)
    assert steepness(probe, torch.arange(32)).min() >= 1 - 1e-3
    assert CHECK.finding_in_model(probe) is None


@pytest.mark.parametrize("count", [1, 16])
def test_one_class_has_no_way_to_another(make_probe: MakeProbe, count: int) -> None:
    """The check is left out."""
    with pytest.raises(UndecidedError, match="0 images have finite logits and a partner"):
        CHECK.finding_in_model(make_probe(Steps(1.0), torch.full((count, 1, 1, 1), 0.8)))


def test_logits_of_nan_are_the_concern_of_another_check(make_probe: MakeProbe) -> None:
    """Off the clean images all logits are NaN."""

    class Broken(Steps):
        def forward(self, images: Tensor) -> Tensor:
            known = (images.flatten(1)[:, 0] * 10).round().sub(images.flatten(1)[:, 0] * 10).abs() < 1e-5
            return torch.where(known[:, None], super().forward(images), torch.nan)

    with pytest.raises(UndecidedError, match="0 images have finite logits"):
        CHECK.finding_in_model(make_probe(Broken(1.0), IMAGES))
