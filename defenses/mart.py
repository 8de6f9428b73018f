"""MART: adversarial training with emphasis on misclassified images."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.training.adversarial_training import AdversarialTraining, Forward, kl_divergence

__all__ = ["MART"]


class MART(AdversarialTraining):
    """MART: a boosted cross-entropy plus TRADES' divergence, weighted by the error on the clean image.

    The loss is ``BCE(p(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x))``. The boosted cross-entropy
    ``BCE(p, y) = -log p_y - log(1 - max_{k != y} p_k)`` also decreases the strongest wrong class. The authors' code adds
    small constants inside the logarithms. Here they are computed by log-sum-exp, without constants. The attack maximizes
    the cross-entropy. It starts at the image plus normal noise of standard deviation 0.001, as in the authors' code.
    """

    paper: ClassVar[str] = (
        "Wang, Zou, Yi, Bailey, Ma, Gu: Improving Adversarial Robustness Requires Revisiting Misclassified Examples. ICLR 2020"
    )
    family: ClassVar[str] = "adversarial-training"

    beta: float = Field(
        5, ge=0, description="weight of the divergence; larger values trade clean accuracy for robustness"
    )

    @property
    def takes_mixed_labels(self) -> bool:
        return False

    def perturb(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return self.attack(
            network,
            images,
            lambda logits: functional.cross_entropy(logits, labels, reduction="sum"),
            start="near",
        )

    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        clean, attacked = forward(images).float(), forward(perturbed).float()
        error = 1 - clean.softmax(1).gather(1, labels[:, None]).squeeze(1)
        return (_boosted_cross_entropy(attacked, labels) + self.beta * kl_divergence(clean, attacked) * error).mean()


def _boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The boosted cross-entropy ``(B,)`` of logits ``(B, K)`` and labels ``(B,)``."""
    strongest = logits.scatter(1, labels[:, None], -torch.inf).argmax(1, keepdim=True)
    without = logits.scatter(1, strongest, -torch.inf).logsumexp(1)
    return functional.cross_entropy(logits, labels, reduction="none") + logits.logsumexp(1) - without
