"""Adversarial images for training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.model import frozen
from robustbench_cli.attacks.base.random import Random
from robustbench_cli.attacks.base.source import gradient_source
from robustbench_cli.attacks.base.threat import project

__all__ = ["adversarial"]


def adversarial(network: nn.Module, images: Tensor, labels: Tensor, *, attack: FixedRadiusAttack, eps: float) -> Tensor:
    """What an attack in linf makes of the images of a training step, by one draw of a randomized network at each gradient.

    The network is in ``eval()`` mode meanwhile, as it is when it is attacked, and the attack goes on with an image that it
    has fooled. Random numbers follow from torch's global generator.

    Args:
        network: In training.
        images: ``(B, C, H, W)`` in [0, 1].
        labels: ``(B,)``, the classes to leave.
        attack: Its parameters count, not its own stopping.
        eps: The radius.

    Returns:
        Images ``(B, C, H, W)`` inside the ball and the box, without a graph.
    """
    seed = int(torch.randint(2**62, ()))
    threat = attack.threat(images, norm="linf", eps=eps, targeted=False)
    with frozen(network):
        source = gradient_source(network, randomized=True)
        perturbed = attack.run(source, images, labels, threat, Random.of(seed, images))
    return project(perturbed, images, threat).detach()
