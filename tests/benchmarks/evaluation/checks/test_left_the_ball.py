from __future__ import annotations

from typing import ClassVar

import pytest
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


class Shift(FixedRadiusAttack):
    """Adds a constant."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    size: float

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return images + self.size


@pytest.mark.parametrize(("size", "raised"), [(0.05, False), (0.0500001, False), (0.06, True), (-0.3, True)])
def test_images_outside_the_ball_are_flagged(network: nn.Module, images: Tensor, size: float, raised: bool) -> None:
    """Rounding is not; and what is scored is inside the ball in any case."""
    inner = 0.1 + 0.5 * images
    found = evaluate(network, inner, network(inner).argmax(1), attack=Shift(size=size), eps=0.05)
    assert ("left-the-ball" in found.flags) == raised
    assert (found.perturbed - inner).abs().max() <= 0.05 + 1e-6
