"""Adv-BNN: an adversarially trained Bayesian network."""

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
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["AdvBNN"]


class AdvBNN(AttackInTraining, RandomizedDefense):
    """Adv-BNN: every weight is normal with a mean and a deviation that adversarial training learns; the mean decides.

    Weights and biases of fully connected layers and convolutions are ``N(mu, exp(s)^2)``, with the prior
    ``N(0, prior^2)``. The loss is the cross-entropy on PGD's images plus ``kl_weight / N`` times the Kullback-Leibler
    divergence from the prior, over N training images. Each step of PGD, which begins at the image, follows another
    draw, and its last iterate counts. In training a batch shares a draw, afterwards every row has its own.

    The authors' code differs in three places. It draws the scales of batch norm too. Its ``kl_weight`` is 1. And its
    standard deviations begin at the prior's, 0.1, and it trains for 90 epochs and more: with few epochs a small network
    learns nothing from there (7 % on the digits after 40 epochs, where 0.02 ends with 97 %).
    """

    paper: ClassVar[str] = (
        "Xuanqing Liu, Yao Li, Chongruo Wu, Cho-Jui Hsieh, Adv-BNN: Improved Adversarial Defense through Robust Bayesian Neural "
        "Network, ICLR 2019, arXiv 1810.01279"
    )

    decision: DecisionRule = Field("mean", description="what decides; the paper's rule is the mean softmax")
    sigma: float = Field(
        0.02,
        gt=0,
        description="standard deviation of all weights when training begins; 0.1 in the authors' code, for long trainings",
    )
    prior: float = Field(0.1, gt=0, description="standard deviation of the prior")
    kl_weight: float = Field(0.02, ge=0, description="weight of the divergence from the prior; 1 is the evidence bound")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return with_random_weights(model, partial(_Layer, sigma=self.sigma), name="adv-bnn")

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        weight = self.kl_weight / len(trainer.train_indices)

        def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            perturbed = ascend(
                network,
                images,
                lambda logits: functional.cross_entropy(logits, labels, reduction="sum"),
                eps=self.radius,
                steps=self.steps,
                step_size=self.pgd_step_size,
                start="image",
            )
            return functional.cross_entropy(network(perturbed), labels) + weight * _divergence(network, self.prior)

        with shared_draws(model):
            trainer.fit(model, name="adversarial training", loss=loss, eps=self.radius)


class _Layer(RandomWeights):
    """A layer whose weights and bias have deviations of their own, kept as logarithms."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, *, sigma: float) -> None:
        super().__init__(layer)
        self.log_sigma = nn.Parameter(torch.full_like(layer.weight, math.log(sigma)))
        self.log_bias_sigma = None if layer.bias is None else nn.Parameter(torch.full_like(layer.bias, math.log(sigma)))

    def sigma(self) -> Tensor:
        return self.log_sigma.exp()

    def bias_sigma(self) -> Tensor | None:
        return None if self.log_bias_sigma is None else self.log_bias_sigma.exp()


def _divergence(network: nn.Module, prior: float) -> Tensor:
    """The summed Kullback-Leibler divergence of all weights from the prior: 0 where mu is 0 and exp(s) ``prior``."""
    parts = []
    for module in network.modules():
        if isinstance(module, _Layer):
            parts.append(_from_prior(module.layer.weight, module.log_sigma, prior))
            if module.layer.bias is not None and module.log_bias_sigma is not None:
                parts.append(_from_prior(module.layer.bias, module.log_bias_sigma, prior))
    return torch.stack(parts).sum()


def _from_prior(mean: Tensor, log_sigma: Tensor, prior: float) -> Tensor:
    spread = ((2 * log_sigma).exp() + mean.square()) / (2 * prior**2)
    return (math.log(prior) - log_sigma + spread - 0.5).sum()
