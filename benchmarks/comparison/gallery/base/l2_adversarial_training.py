"""Adversarial training in l2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robustbench_cli.defenses.pgd_at import PGDAT

__all__ = ["L2AdversarialTraining"]

_RADIUS, _STEPS = 0.5, 7


class L2AdversarialTraining(PGDAT):
    """Adversarial training on PGD images in an l2 ball of radius 0.5: seven steps of 0.15 from the clean image."""

    def perturb(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        perturbed = images
        for _ in range(_STEPS):
            leaf = perturbed.detach().requires_grad_()
            loss = cross_entropy(network(leaf), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
            lengths = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
            offset = perturbed + 0.15 * gradient / lengths - images
            perturbed = (images + offset.renorm(2, 0, _RADIUS)).clamp(0, 1).detach()
        return perturbed
