"""MACER: randomized smoothing, trained to have large certified radii."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.decision_rules import log_mean_softmax
from robustbench_cli.defenses.base.stochastic import normal_like
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.randomized_smoothing import RandomizedSmoothing, base_classifier

__all__ = ["MACER"]


class MACER(RandomizedSmoothing):
    """MACER: randomized smoothing, trained to have large certified radii, without any attack.

    Each image gets ``noises`` draws of noise. To the negative logarithm of their mean softmax comes ``weight`` times a
    hinge on the certified radius ``sigma / 2 (Phi^-1(p) - Phi^-1(q))``, where p and q are the mean softmax of ``beta``
    times the logits at the label and at the likeliest other class. The hinge counts where p is above q, and lets go of
    radii of ``sigma / 2 gamma`` and more. The paper trains for 440 epochs; with few, the hinge costs more accuracy than
    it gives.
    """

    paper: ClassVar[str] = (
        "Runtian Zhai, Chen Dan, Di He, Huan Zhang, Boqing Gong, Pradeep Ravikumar, Cho-Jui Hsieh, Liwei Wang, MACER: "
        "Attack-free and Scalable Robust Training via Maximizing Certified Radius, ICLR 2020, arXiv 2001.02378"
    )

    noises: int = Field(16, ge=1, description="draws of noise of each image; a step costs as many times as much")
    weight: float = Field(12, ge=0, description="of the hinge on the radius")
    gamma: float = Field(8, gt=0, description="where the hinge ends, as twice the radius over sigma")
    beta: float = Field(16, gt=0, description="what logits are multiplied by for the radius")

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="training", loss=self.loss)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over images ``(B, C, H, W)`` with labels ``(B,)``."""
        rows = images.repeat(self.noises, 1, 1, 1)
        noisy = torch.add(rows, normal_like(rows), alpha=self.sigma)
        logits = base_classifier(network)(noisy).float().unflatten(0, (self.noises, -1))
        hinge = self.sigma / 2 * _below((self.beta * logits).softmax(2).mean(0), labels, self.gamma)
        return functional.nll_loss(log_mean_softmax(logits), labels) + self.weight * hinge.mean()


def _below(probabilities: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """How far ``Phi^-1(p) - Phi^-1(q)`` is below gamma; 0 where p is not above q, or nothing is missing.

    Args:
        probabilities: ``(B, K)``.
        labels: ``(B,)``: p is a row's probability of its label, q the largest of the others.
        gamma: In standard deviations.

    Returns:
        ``(B,)``.
    """
    own = probabilities.gather(1, labels[:, None])[:, 0].double()
    other = probabilities.scatter(1, labels[:, None], 0).amax(1).double()
    with torch.no_grad():
        gap = torch.special.ndtri(own) - torch.special.ndtri(other)
        counted = (own > other) & (gap < gamma)
    # Outside of what counts a slope may be infinite, and 0 times that is no number.
    own, other = (torch.where(counted, each, 0.5) for each in (own, other))
    missing = gamma - torch.special.ndtri(own) + torch.special.ndtri(other)
    return torch.where(counted, missing, 0).to(probabilities.dtype)
