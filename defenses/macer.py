"""MACER: randomized smoothing, trained for large certified radii."""

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
    """MACER: randomized smoothing, trained for large certified radii without an attack.

    Each image gets ``noise_samples`` draws of noise. The loss is the negative logarithm of their mean softmax plus
    ``radius_weight`` times a hinge loss on the certified radius ``sigma / 2 (Phi^-1(p) - Phi^-1(q))``. Here p and q are
    the mean softmax of ``beta`` times the logits, at the label and at the most likely other class. The hinge loss applies
    to images with p > q whose radius is below ``sigma / 2 gamma``. The paper trains for 440 epochs. With few epochs the
    hinge loss costs accuracy and certifies no more.
    """

    paper: ClassVar[str] = (
        "Runtian Zhai, Chen Dan, Di He, Huan Zhang, Boqing Gong, Pradeep Ravikumar, Cho-Jui Hsieh, Liwei Wang, MACER: "
        "Attack-free and Scalable Robust Training via Maximizing Certified Radius, ICLR 2020, arXiv 2001.02378"
    )
    family: ClassVar[str] = "certified"

    noise_samples: int = Field(
        16,
        ge=1,
        description="draws of noise per image; the cost of a step is proportional to it",
        json_schema_extra={"formerly": "noises"},
    )
    radius_weight: float = Field(
        12,
        ge=0,
        description="weight of the hinge loss on the certified radius (lambda in the paper)",
        json_schema_extra={"formerly": "weight"},
    )
    gamma: float = Field(8, gt=0, description="hinge threshold, on twice the radius divided by sigma")
    beta: float = Field(16, gt=0, description="inverse temperature of the softmax in the radius")

    @property
    def takes_mixed_labels(self) -> bool:
        return False

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="training", loss=self.loss)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a training step; see :data:`~.gradients.TrainingLoss`.

        Args:
            network: The randomized network.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
        """
        rows = images.repeat(self.noise_samples, 1, 1, 1)
        noisy = torch.add(rows, normal_like(rows), alpha=self.sigma)
        logits = base_classifier(network)(noisy).float().unflatten(0, (self.noise_samples, -1))
        hinge = self.sigma / 2 * _hinge((self.beta * logits).softmax(2).mean(0), labels, self.gamma)
        return functional.nll_loss(log_mean_softmax(logits), labels) + self.radius_weight * hinge.mean()


def _hinge(probabilities: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """The hinge ``max(0, gamma - (Phi^-1(p) - Phi^-1(q)))``, and 0 for misclassified images (p <= q).

    Args:
        probabilities: ``(B, K)``.
        labels: ``(B,)``. p is the probability of the label, q the largest of the others.
        gamma: The threshold, in standard deviations.

    Returns:
        ``(B,)``.
    """
    label = probabilities.gather(1, labels[:, None])[:, 0].double()
    other = probabilities.scatter(1, labels[:, None], 0).amax(1).double()
    with torch.no_grad():
        gap = torch.special.ndtri(label) - torch.special.ndtri(other)
        active = (label > other) & (gap < gamma)
    # Elsewhere the derivative may be infinite, and 0 times infinity is NaN.
    label, other = (torch.where(active, probability, 0.5) for probability in (label, other))
    hinge = gamma - torch.special.ndtri(label) + torch.special.ndtri(other)
    return torch.where(active, hinge, 0).to(probabilities.dtype)
