"""Adversarial training weighted by the mutual information of each image and its latent."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.defenses.base.training.adversarial_training import AdversarialTraining, Forward
from robustbench_cli.defenses.base.training.gradients import label_loss

__all__ = ["InfoAT", "pointwise_information"]


class InfoAT(AdversarialTraining):
    """InfoAT: adversarial training with larger weights for images whose latents have a high mutual information with them.

    The loss is the mean of ``w CE(f(x'), y)`` over PGD images. The weight w is proportional to ``exp(strength I(x))`` and
    has mean 1 in a batch. I(x) is the part of the image x in the mutual information of images and latents, estimated from
    the batch; see ``pointwise_information``. With ``strength=0`` it is ``pgd-at``.

    In the style of the paper: its text was not at hand, only its abstract. The abstract says that images of high mutual
    information are attacked easily, and that the training exploits them. The estimator, the weights and the logits as
    latents are our choices.

    The observation holds for this estimator only if ``noise`` is small: then I(x) is high where the latent is far from all
    others. With more noise the images of high information are the robust ones. The weights do not make the network more
    robust than ``pgd-at``. The page "Published systems, measured" has the figures.
    """

    paper: ClassVar[str] = (
        "Xu, Zhang, Li, Zhang: InfoAT: Improving Adversarial Training Using the Information Bottleneck Principle. IEEE "
        "Transactions on Neural Networks and Learning Systems 2024, arXiv 2206.12292"
    )
    family: ClassVar[str] = "adversarial-training"

    strength: float = Field(
        1, ge=0, description="how much the weight grows with the information: its logarithm has this slope"
    )
    noise: float = Field(
        0.15,
        gt=0,
        description="standard deviation of the latents' noise, relative to the root mean square of the distances in a batch",
    )

    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            information = pointwise_information(forward(images), self.noise)
        weights = len(images) * (self.strength * information).softmax(0)
        return label_loss(forward(perturbed), labels, weights)


def pointwise_information(latents: Tensor, noise: float) -> Tensor:
    """The parts of images in the mutual information of images and noisy latents, in nats.

    The latent of image i is ``z_i`` plus normal noise of variance ``s^2``. The estimate for N images is ``I_i = -log (1/N)
    sum_j exp(-|z_i - z_j|^2 / (2 s^2))``. Its mean over the images is an upper bound on their mutual information. Source:
    Kolchinsky, Tracey: Estimating Mixture Entropy with Pairwise Distances. Entropy 2017, arXiv 1706.02419.

    Args:
        latents: ``(N, d)``.
        noise: s, relative to the root mean square of the ``N^2`` distances between latents.

    Returns:
        ``(N,)`` in [0, log N]: 0 if all latents are equal, log N if the latent is far from all others.

    >>> pointwise_information(torch.tensor([[0.0], [0.0], [9.0]]), 0.01)
    tensor([0.4055, 0.4055, 1.0986])
    """
    wide = latents.float()
    squares = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").square()
    variance = (noise**2 * squares.mean()).clamp_min(torch.finfo(squares.dtype).tiny)
    return math.log(len(wide)) - (-squares / (2 * variance)).logsumexp(1)
