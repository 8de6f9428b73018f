from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.fgsm import FGSM

from .conftest import LinearVictim, Victim


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_two_classes_fall_just_beyond_the_closed_form_distance(
    norm: Norm, linear_victim: Callable[..., LinearVictim], *, targeted: bool
) -> None:
    """Of a linear model with two classes one step is the best there is: right below the distance, wrong above."""
    victim = linear_victim(2)
    goals = 1 - victim.labels if targeted else victim.labels
    for factor, accuracy in ((0.999, 1), (1.001, 0)):
        eps = factor * victim.radii(norm)
        perturbed = FGSM()(victim.model, victim.images, goals, norm=norm, eps=eps, targeted=targeted)
        assert victim.accuracy(perturbed) == accuracy


def test_the_step_is_the_papers(digits_victim: Victim) -> None:
    """``x + eps sign(grad)``, clipped, by torch's own loss in float64; one backward pass that is counted as one."""
    images = digits_victim.images.double().requires_grad_()
    logits = copy.deepcopy(digits_victim.model).double()(images)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, digits_victim.labels, reduction="sum"), images)
    perturbed = FGSM()(digits_victim.model, digits_victim.images, digits_victim.labels, eps=0.1)
    torch.testing.assert_close(perturbed, (digits_victim.images + 0.1 * gradient.sign().float()).clamp(0, 1))
    source = EOT(digits_victim.model)
    threat = Threat(norm="linf", eps=torch.full((60,), 0.1))
    FGSM().run(source, digits_victim.images, digits_victim.labels, threat, Random.of(0, digits_victim.images))
    assert (source.forwards, source.backwards) == (60, 60)
