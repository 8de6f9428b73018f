from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.benchmarks.evaluation.checks.not_a_number import NotANumber
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate

from .conftest import MakeProbe


class Bounded(nn.Module):
    """A network that gives NaN for images that are brighter than a level."""

    def __init__(self, network: nn.Module, level: float) -> None:
        super().__init__()
        self.network, self.level = network, level

    def forward(self, images: Tensor) -> Tensor:
        bright = images.flatten(1).amax(1) > self.level
        return torch.where(bright[:, None], torch.nan, self.network(images))


class Brighter(FixedRadiusAttack):
    """Adds the radius to every pixel."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return images + 0.05


def test_nan_near_an_image_is_flagged(network: nn.Module, images: Tensor) -> None:
    """Only where the attack reaches it."""
    dark = 0.5 * images
    labels = network(dark).argmax(1)
    for level, raised in ((0.6, False), (0.52, True)):
        flags = evaluate(Bounded(network, level), dark, labels, attack=Brighter(), eps=0.05).flags
        assert ("not-a-number" in flags) == raised


def test_an_audit_looks_for_nan_in_the_ball(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """At random points, which need no attack that leads there."""
    dark = 0.5 * images
    for level, raised in ((0.8, False), (0.52, True)):
        probe = make_probe(Bounded(network, level), dark, eps=0.05)
        assert (NotANumber("not-a-number").finding_in_model(probe) is not None) == raised
