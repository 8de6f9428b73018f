"""Adv-BNN: an adversarially trained Bayesian neural network."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.decision_rules import DecisionRule
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.surgery.random_weights import RandomWeights, shared_draws, with_random_weights
from robustbench_cli.defenses.base.training.adversarial import AttackInTraining, ascend
from robustbench_cli.defenses.base.training.gradients import label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["AdvBNN"]


class AdvBNN(AttackInTraining, RandomizedDefense):
    """Adv-BNN: adversarial training learns a mean and a standard deviation of every weight; the mean softmax decides.

    Weights and biases of fully connected layers and convolutions are ``N(mu, exp(s)^2)``, with the prior
    ``N(0, prior_sigma^2)``. The loss is the cross-entropy on PGD images plus ``kl_weight / N`` times the Kullback-Leibler
    divergence from the prior, for N training images. PGD starts at the image and makes a new draw in each step. In
    training the rows of a batch share one draw. Afterwards every row has its own draw.

    The authors' code differs in three points. It also draws the scales of batch norm. Its ``kl_weight`` is 1. Its initial
    standard deviations equal the prior's, 0.1, and it trains for 90 epochs or more. With few epochs a small network does
    not learn from there: it has 7 % accuracy on the digits after 40 epochs, and 97 % with an initial 0.02.
    """

    paper: ClassVar[str] = (
        "Xuanqing Liu, Yao Li, Chongruo Wu, Cho-Jui Hsieh, Adv-BNN: Improved Adversarial Defense through Robust Bayesian Neural "
        "Network, ICLR 2019, arXiv 1810.01279"
    )
    family: ClassVar[str] = "random-layers"

    decision: DecisionRule = Field("mean", description="decision rule; the paper's is the mean softmax")
    sigma: float = Field(
        0.02,
        gt=0,
        description="initial standard deviation of all weights; 0.1 in the authors' code, for long trainings",
    )
    prior_sigma: float = Field(
        0.1, gt=0, description="standard deviation of the prior", json_schema_extra={"formerly": "prior"}
    )
    kl_weight: float = Field(
        0.02, ge=0, description="weight of the divergence from the prior; 1 gives the evidence lower bound"
    )

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return with_random_weights(model, partial(_Layer, sigma=self.sigma), name="adv-bnn")

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        weight = self.kl_weight / len(trainer.train_indices)

        def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            perturbed = ascend(
                network,
                images,
                lambda logits: functional.cross_entropy(logits, labels, reduction="sum"),
                self.pgd(start="image"),
            )
            return label_loss(network(perturbed), labels) + weight * _divergence(network, self.prior_sigma)

        with shared_draws(model):
            trainer.fit(model, name="adversarial training", loss=loss, eps=self.radius)


class _Layer(RandomWeights):
    """A layer with a learned standard deviation of each weight and bias, stored as its logarithm."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, *, sigma: float) -> None:
        super().__init__(layer)
        self.log_sigma = nn.Parameter(torch.full_like(layer.weight, math.log(sigma)))
        self.log_bias_sigma = None if layer.bias is None else nn.Parameter(torch.full_like(layer.bias, math.log(sigma)))

    def sigma(self) -> Tensor:
        return self.log_sigma.exp()

    def bias_sigma(self) -> Tensor | None:
        return None if self.log_bias_sigma is None else self.log_bias_sigma.exp()


def _divergence(network: nn.Module, prior_sigma: float) -> Tensor:
    """The sum of the Kullback-Leibler divergences of all weights from the prior."""
    parts = []
    for module in network.modules():
        if isinstance(module, _Layer):
            parts.append(_normal_divergence(module.layer.weight, module.log_sigma, prior_sigma))
            if module.layer.bias is not None and module.log_bias_sigma is not None:
                parts.append(_normal_divergence(module.layer.bias, module.log_bias_sigma, prior_sigma))
    return torch.stack(parts).sum()


def _normal_divergence(mean: Tensor, log_sigma: Tensor, prior_sigma: float) -> Tensor:
    """The sum of ``KL(N(mean, sigma^2) || N(0, prior_sigma^2))`` over the elements."""
    second_moment = (2 * log_sigma).exp() + mean.square()
    return (math.log(prior_sigma) - log_sigma + second_moment / (2 * prior_sigma**2) - 0.5).sum()
