from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from robustbench_cli.attacks.fgsm import FGSM
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.defenses.base.adversarial import adversarial

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6)


def test_one_step_is_the_signed_gradient(normed: Callable[[], nn.Module]) -> None:
    """FGSM's images are ``x + eps sign(grad)`` in eval() mode, clipped; modes and frozen parameters are put back."""
    network = normed().train()
    network[0].requires_grad_(False)
    statistics = network[1].running_mean.clone()
    perturbed = adversarial(network, IMAGES, LABELS, attack=FGSM(), eps=0.1)
    assert all(module.training for module in network.modules())
    assert [parameter.requires_grad for parameter in network.parameters()] == [False] * 2 + [True] * 8
    assert torch.equal(network[1].running_mean, statistics)
    leaf = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(network.eval()(leaf), LABELS, reduction="sum"), leaf)
    torch.testing.assert_close(perturbed, (IMAGES + 0.1 * gradient.sign()).clamp(0, 1))
    assert not perturbed.requires_grad


def test_random_starts_follow_torchs_generator(normed: Callable[[], nn.Module]) -> None:
    """The same seed gives the same images, the next step of a training others, all inside the ball and the box."""
    network = normed()
    attack = PGD(steps=2, step_size=0.02)
    torch.manual_seed(0)
    first, second = (adversarial(network, IMAGES, LABELS, attack=attack, eps=0.1) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(adversarial(network, IMAGES, LABELS, attack=attack, eps=0.1), first)
    assert not torch.equal(first, second)
    assert (first - IMAGES).abs().max() <= 0.1 + 1e-6
    assert first.min() >= 0
    assert first.max() <= 1
