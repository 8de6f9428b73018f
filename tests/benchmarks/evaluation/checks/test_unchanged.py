from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.benchmarks.evaluation import evaluate as evaluation
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


class Brighter(FixedRadiusAttack):
    """Changes the images whose first pixel is bright."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    threshold: float

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        bright = images[:, :1, :1, :1] > self.threshold
        return torch.where(bright, (images + 0.05).clamp(0, 1), images)


@pytest.mark.parametrize(("threshold", "eps", "raised"), [(2.0, 0.1, True), (2.0, 0.0, False), (0.0, 0.1, False)])
def test_an_attack_that_changes_nothing_is_flagged(
    network: nn.Module, images: Tensor, threshold: float, eps: float, raised: bool
) -> None:
    """At a radius of 0 nothing can change."""
    images = (images * 255).round() / 255
    found = evaluate(network, images, network(images).argmax(1), attack=Brighter(threshold=threshold), eps=eps)
    assert ("unchanged" in found.flags) == raised


def test_one_changed_batch_is_enough(network: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack works, though not on every batch."""
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 4)
    images = (images * 255).round() / 255
    images[:4, 0, 0, 0], images[4:, 0, 0, 0] = 0, 1
    found = evaluate(network, images, network(images).argmax(1), attack=Brighter(threshold=0.5), eps=0.1)
    assert "unchanged" not in found.flags
