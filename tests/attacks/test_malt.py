from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from robustbench_cli.attacks.apgd_t import APGDT
from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.malt import MALT

from .conftest import LinearVictim, Victim


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_target_is_enough_on_a_linear_model(norm: Norm, linear_victim: Callable[..., LinearVictim]) -> None:
    """The nearest of six classes is the target, also where another one is more likely."""
    victim = linear_victim(6)
    words = {"norm": norm, "eps": 1.02 * victim.radii(norm)}
    assert victim.accuracy(APGDT(n_target_classes=1)(victim.model, victim.images, victim.labels, **words)) > 0
    assert victim.accuracy(MALT(n_target_classes=1)(victim.model, victim.images, victim.labels, **words)) == 0


def test_three_targets_break_what_nine_likely_ones_break_in_half_the_passes(digits_victim: Victim) -> None:
    """On a small CNN, for the classes' gradients as well."""
    images, labels = digits_victim.images[:40], digits_victim.labels[:40]
    threat = Threat(norm="linf", eps=torch.full((40,), 0.08, dtype=torch.float64))
    left, passes = [], []
    for attack in (APGDT(steps=20), MALT(steps=20, n_target_classes=3)):
        source = EOT(digits_victim.model.requires_grad_(False), batch_size=64)
        perturbed = attack.run(source, images, labels, threat, Random.of(0, images))
        left.append(digits_victim.model(perturbed).argmax(1) == labels)
        passes.append(source.forwards + source.backwards)
    likely, nearest = left
    assert 0 < nearest.sum() < 40
    assert nearest.sum() <= likely.sum()
    assert passes[1] < passes[0] / 2
