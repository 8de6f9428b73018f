"""Parametric noise injection."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.surgery.random_weights import (
    RandomWeights,
    shared_draws,
    weight_std,
    with_random_weights,
)
from robustbench_cli.defenses.base.training.adversarial import AttackInTraining, ascend
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["PNI"]


class PNI(AttackInTraining, RandomizedDefense):
    """Parametric noise injection: Gaussian noise on all weights, of a strength that adversarial training learns.

    The weights W of a fully connected layer or a convolution become ``W + alpha * eta`` with ``eta ~ N(0, std(W)^2)``;
    alpha is learned, one for a layer, for an output channel or for a weight. The loss is half the cross-entropy on the
    images and half that on PGD's images, which leave the class that the network predicts rather than the true one. Each
    step of PGD, which begins uniformly in the ball, follows another draw, and its last iterate counts. In training a
    batch shares a draw, afterwards every row has its own. Unlike in the authors' code, the attack belongs to the
    training from its first epoch on, and alpha decays as the weights do.
    """

    paper: ClassVar[str] = (
        "Zhezhi He, Adnan Siraj Rakin, Deliang Fan, Parametric Noise Injection: Trainable Randomness to Improve Deep Neural "
        "Network Robustness against Adversarial Attack, CVPR 2019, arXiv 1811.09310"
    )

    alpha: float = Field(
        0.25, ge=0, description="strength of the noise when training begins, in standard deviations of W"
    )
    per: Literal["layer", "channel", "element"] = Field("layer", description="what has a strength of its own")
    steps: int = Field(7, ge=1, description="steps of that attack")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return with_random_weights(model, partial(_Layer, alpha=self.alpha, per=self.per), name="pni")

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        with shared_draws(model):
            trainer.fit(model, name="adversarial training", loss=self._loss, eps=self.radius)

    def _loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = network(images)
        predicted = logits.argmax(1)
        perturbed = ascend(
            network,
            images,
            lambda logits: functional.cross_entropy(logits, predicted, reduction="sum"),
            eps=self.radius,
            steps=self.steps,
            step_size=self.pgd_step_size,
        )
        return (functional.cross_entropy(logits, labels) + functional.cross_entropy(network(perturbed), labels)) / 2


class _Layer(RandomWeights):
    """A layer with a learned strength of its noise."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, *, alpha: float, per: str) -> None:
        super().__init__(layer)
        weight = layer.weight
        shapes = {"layer": (), "channel": (len(weight), *[1] * (weight.dim() - 1)), "element": weight.shape}
        self.alpha = nn.Parameter(torch.full(shapes[per], alpha, dtype=weight.dtype, device=weight.device))

    def sigma(self) -> Tensor:
        return self.alpha * weight_std(self.layer.weight)
