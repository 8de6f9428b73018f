from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from robustbench_cli.attacks.mi_fgsm import MIFGSM
from robustbench_cli.attacks.ni_fgsm import NIFGSM

from .conftest import Victim


@pytest.mark.parametrize("targeted", [False, True])
def test_the_iterates_are_the_papers(digits_victim: Victim, *, targeted: bool) -> None:
    """The paper's update in float64, with the gradient one step ahead: the same images but for a few signs."""
    model = copy.deepcopy(digits_victim.model).double()
    images = digits_victim.images.double()
    labels = (digits_victim.labels + 1) % 10 if targeted else digits_victim.labels
    sign = -1 if targeted else 1
    eps, steps, decay = 0.1, 5, 0.7
    iterates, momentum = images, torch.zeros_like(images)
    for _ in range(steps):
        ahead = iterates + sign * eps / steps * decay * momentum
        leaf = ahead.clamp(0, 1).requires_grad_()
        (slope,) = torch.autograd.grad(functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        momentum = decay * momentum + slope / slope.abs().sum((1, 2, 3), keepdim=True)
        iterates = iterates + sign * eps / steps * momentum.sign()
        iterates = iterates.clamp(images - eps, images + eps).clamp(0, 1)
    attack = NIFGSM(steps=steps, decay=decay)
    perturbed = attack(digits_victim.model, digits_victim.images, labels, eps=eps, targeted=targeted)
    assert ((perturbed - iterates).abs() < 1e-5).double().mean() > 0.99


def test_without_momentum_there_is_nothing_ahead(digits_victim: Victim) -> None:
    """With a decay of 0 it is the iterative method without momentum."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    perturbed = NIFGSM(decay=0)(model, images, labels, eps=0.1)
    assert torch.equal(perturbed, MIFGSM(decay=0)(model, images, labels, eps=0.1))
