from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.benchmarks.evaluation.checks.base.finding import UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.loss_path import LossPath
from robustbench_cli.benchmarks.evaluation.checks.not_stationary import NotStationary, stationarity

from .conftest import MakeProbe

CHECK = NotStationary("not-stationary")
IMAGES = 0.3 + 0.4 * torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.zeros(20, dtype=torch.int64)


class Linear(nn.Module):
    """Two classes by the mean of the pixels; with noise in the gradient."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, images: Tensor) -> Tensor:
        class Backward(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, values: Tensor) -> Tensor:  # type: ignore[override]
                return values.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
                return gradient + self.noise * gradient.std() * torch.randn_like(gradient)

        weights = torch.linspace(-1, 2, 36).view(6, 6)
        seen: Tensor = Backward.apply(images) if self.noise else images
        lead = 1 + (seen * weights).mean((1, 2, 3))
        return torch.stack([lead, -lead], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_condition_is_that_of_the_paper(norm: Norm, share: float) -> None:
    """In the inside of the box: eps |g| - <x - x0, g> with the dual norm, in units of eps |g|, for a point on the way to the maximum."""
    generator = torch.Generator().manual_seed(1)
    images, slope = torch.full((5, 1, 4, 4), 0.5), torch.randn(5, 1, 4, 4, generator=generator)
    eps = 0.1 if norm == "linf" else 0.3
    length = slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    best = images + eps * (slope.sign() if norm == "linf" else slope / length)
    ends = torch.lerp(images, best, share)
    threat = Threat(norm=norm, eps=torch.full((5,), eps, dtype=torch.float64))
    at_ends, at_images = stationarity(LossPath(images, threat, torch.zeros(1, 5), ends, slope, sampled=False))
    dual = slope.flatten(1).norm(p=1 if norm == "linf" else 2, dim=1)
    paper = eps * dual - ((ends - images) * slope).flatten(1).sum(1)
    assert at_ends.tolist() == pytest.approx((paper / (eps * dual)).tolist(), abs=1e-5)
    assert at_ends.tolist() == pytest.approx([1 - share] * 5, abs=1e-5)
    assert at_images.tolist() == pytest.approx([1.0] * 5, abs=1e-5)


def test_the_box_is_no_room() -> None:
    """Half of the pixels are white and half are black, and all should become whiter: the first half is at its maximum."""
    images = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    threat = Threat(norm="linf", eps=torch.tensor([0.1], dtype=torch.float64))
    path = LossPath(images, threat, torch.zeros(1, 1), images, torch.ones(1, 1, 1, 2), sampled=False)
    assert [values.item() for values in stationarity(path)] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_on_a_linear_model_ends_at_its_maximum(make_probe: MakeProbe, norm: Norm) -> None:
    """The corner of the ball, or the point in the direction of the gradient."""
    probe = make_probe(Linear(), IMAGES, LABELS, norm=norm, eps=0.1)
    assert probe.path is not None
    assert CHECK.finding_in_model(probe) is None


def test_noise_leads_nowhere(make_probe: MakeProbe) -> None:
    """The iterates have nothing to do with the gradient at the end."""
    finding = CHECK.finding_in_model(make_probe(Linear(noise=30), IMAGES, LABELS))
    assert finding is not None
    assert finding.figures["fosc"] == pytest.approx(1, abs=0.2)
    assert not math.isnan(finding.figures["fosc"])


def test_a_gradient_of_zero_is_the_concern_of_another_check(make_probe: MakeProbe) -> None:
    """Nothing is divided by it."""

    class Blind(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([2.0, 0.0]) + 0 * images.sum((1, 2, 3))[:, None]

    assert CHECK.finding_in_model(make_probe(Blind(), IMAGES, LABELS)) is None


def test_the_condition_has_no_form_in_l1(make_probe: MakeProbe) -> None:
    """It is left out."""
    with pytest.raises(UndecidedError, match="linf and l2"):
        CHECK.finding_in_model(make_probe(Linear(), IMAGES, LABELS, norm="l1", eps=1.0))
