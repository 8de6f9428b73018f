"""TRADES: a trade-off between accuracy and robustness by a divergence."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.defenses.base.training.adversarial_training import AdversarialTraining, Forward, kl_divergence
from robustbench_cli.defenses.base.training.gradients import label_loss

__all__ = ["TRADES"]


class TRADES(AdversarialTraining):
    """TRADES: the cross-entropy on clean images, plus ``beta`` times the divergence between clean and adversarial outputs.

    The loss is ``CE(f(x), y) + beta KL(p(x) || p(x'))``, with a gradient through both distributions. The attack maximizes
    the same divergence and needs no label. It starts at the image plus normal noise of standard deviation 0.001, because
    the gradient of the divergence is 0 at the image itself.
    """

    paper: ClassVar[str] = (
        "Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan: Theoretically Principled Trade-off between Robustness and Accuracy. "
        "ICML 2019, arXiv 1901.08573"
    )
    family: ClassVar[str] = "adversarial-training"

    beta: float = Field(
        6, ge=0, description="weight of the divergence; larger values trade clean accuracy for robustness"
    )

    def perturb(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with self.attacking(network), torch.no_grad():
            clean = network(images)
        return self.attack(network, images, lambda logits: kl_divergence(clean, logits).sum(), start="near")

    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        clean = forward(images)
        return label_loss(clean, labels) + self.beta * kl_divergence(clean, forward(perturbed)).mean()
