from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


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
