"""Interpolated adversarial training."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Beta

from robustbench_cli.defenses.base.training.adversarial_training import AdversarialTraining, Forward
from robustbench_cli.defenses.base.training.gradients import label_loss

__all__ = ["InterpolatedAT"]


class InterpolatedAT(AdversarialTraining):
    """Interpolated adversarial training: the mean of the mixup losses on clean images and on PGD images.

    Mixup interpolates images of one batch, ``l x_i + (1 - l) x_j`` with ``l ~ Beta(alpha, alpha)``. Its loss is
    ``l CE(., y_i) + (1 - l) CE(., y_j)``. The clean batch and the perturbed batch have separate draws of l. PGD maximizes
    the cross-entropy on images without mixup.
    """

    paper: ClassVar[str] = (
        "Lamb, Verma, Kannala, Bengio: Interpolated Adversarial Training: Achieving Robust Neural Networks without "
        "Sacrificing Too Much Accuracy. AISec 2019, arXiv 1906.06784"
    )
    family: ClassVar[str] = "adversarial-training"

    alpha: float = Field(1, gt=0, description="parameter of the Beta distribution of the mixup coefficient; 1: uniform")

    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        return (self.mixup_loss(forward, images, labels) + self.mixup_loss(forward, perturbed, labels)) / 2

    def mixup_loss(self, forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        """The mean mixup loss of a batch, with draws from torch's global generators.

        Args:
            forward: The network.
            images: ``(B, C, H, W)``.
            labels: ``(B,)``.
        """
        coefficient = Beta(self.alpha, self.alpha).sample().item()
        order = torch.randperm(len(images), device=images.device)
        logits = forward(coefficient * images + (1 - coefficient) * images[order])
        first, second = label_loss(logits, labels), label_loss(logits, labels[order])
        return coefficient * first + (1 - coefficient) * second
