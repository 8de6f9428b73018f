from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from robustbench_cli.attacks.mi_fgsm import MIFGSM

from .conftest import LinearVictim, Victim


@pytest.mark.parametrize("targeted", [False, True])
def test_the_iterates_are_the_papers(digits_victim: Victim, *, targeted: bool) -> None:
    """Algorithm 1 of the paper in float64, with torch's own cross-entropy: the same images but for a few signs."""
    model = copy.deepcopy(digits_victim.model).double()
    images = digits_victim.images.double()
    labels = (digits_victim.labels + 1) % 10 if targeted else digits_victim.labels
    eps, steps, decay = 0.1, 5, 0.7
    iterates, momentum = images, torch.zeros_like(images)
    for _ in range(steps):
        leaf = iterates.clone().requires_grad_()
        (slope,) = torch.autograd.grad(functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        momentum = decay * momentum + slope / slope.abs().sum((1, 2, 3), keepdim=True)
        iterates = iterates + (-1 if targeted else 1) * eps / steps * momentum.sign()
        iterates = iterates.clamp(images - eps, images + eps).clamp(0, 1)
    attack = MIFGSM(steps=steps, decay=decay)
    perturbed = attack(digits_victim.model, digits_victim.images, labels, eps=eps, targeted=targeted)
    assert ((perturbed - iterates).abs() < 1e-5).double().mean() > 0.99


def test_two_classes_fall_just_beyond_the_closed_form_distance(linear_victim: Callable[..., LinearVictim]) -> None:
    """Of a linear model with two classes every image is right below its distance to the other, and wrong above."""
    victim = linear_victim(2)
    for factor, accuracy in ((0.999, 1), (1.001, 0)):
        eps = factor * victim.radii("linf")
        assert victim.accuracy(MIFGSM()(victim.model, victim.images, victim.labels, eps=eps)) == accuracy


def test_the_steps_do_not_depend_on_the_size_of_the_gradient(linear_victim: Callable[..., LinearVictim]) -> None:
    """Where every slope is near the smallest number that float32 holds, each step is still a whole one."""
    victim = linear_victim(2, scale=1e-37)
    perturbed = MIFGSM()(victim.model, victim.images, victim.labels, eps=0.1)
    assert (((perturbed - victim.images).abs() - 0.1).abs() < 1e-6).double().mean() > 0.99
