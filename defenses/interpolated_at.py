"""Interpolated adversarial training."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Beta
from torch.nn import functional

from robustbench_cli.defenses.base.training.adversarial_training import AdversarialTraining, Forward

__all__ = ["InterpolatedAT"]


class InterpolatedAT(AdversarialTraining):
    """Interpolated adversarial training: mixup of the images, and mixup of PGD's images, half of the loss each.

    Images are mixed with others of their own batch, ``l x_i + (1 - l) x_j`` with ``l ~ Beta(alpha, alpha)``, and the
    loss is ``l CE(., y_i) + (1 - l) CE(., y_j)``; one l is drawn for the clean batch and another for the perturbed one.
    PGD climbs the cross-entropy on images that are not mixed, in ``eval()`` mode.
    """

    paper: ClassVar[str] = (
        "Lamb, Verma, Kannala, Bengio: Interpolated Adversarial Training: Achieving Robust Neural Networks without "
        "Sacrificing Too Much Accuracy. AISec 2019, arXiv 1906.06784"
    )

    alpha: float = Field(
        1, gt=0, description="of the Beta distribution that a share is drawn from; 1 is the uniform one"
    )

    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        return (self.mixup_loss(forward, images, labels) + self.mixup_loss(forward, perturbed, labels)) / 2

    def mixup_loss(self, forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss on a mixture of images ``(B, C, H, W)`` with others of them, by torch's global generators."""
        share = Beta(self.alpha, self.alpha).sample().item()
        order = torch.randperm(len(images), device=images.device)
        logits = forward(share * images + (1 - share) * images[order])
        own, other = functional.cross_entropy(logits, labels), functional.cross_entropy(logits, labels[order])
        return share * own + (1 - share) * other
