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
from robustbench_cli.defenses.base.training.gradients import label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["PNI"]


class PNI(AttackInTraining, RandomizedDefense):
    """Parametric noise injection: Gaussian noise on all weights, with a strength learned by adversarial training.

    The weights W of a fully connected layer or a convolution become ``W + alpha * eta`` with ``eta ~ N(0, std(W)^2)``.
    Training learns one alpha per layer, per output channel or per weight. The loss is the mean of the cross-entropies on
    clean and on PGD images. PGD moves away from the predicted class, not from the label. It starts uniformly in the ball
    and makes a new draw in each step. In training the rows of a batch share one draw. Afterwards every row has its own
    draw. Unlike in the authors' code, training is adversarial from the first epoch, and alpha has weight decay.
    """

    paper: ClassVar[str] = (
        "Zhezhi He, Adnan Siraj Rakin, Deliang Fan, Parametric Noise Injection: Trainable Randomness to Improve Deep Neural "
        "Network Robustness against Adversarial Attack, CVPR 2019, arXiv 1811.09310"
    )
    family: ClassVar[str] = "random-layers"

    alpha: float = Field(0.25, ge=0, description="initial strength of the noise, in standard deviations of W")
    granularity: Literal["layer", "channel", "element"] = Field(
        "layer",
        description="what shares one alpha: a layer, an output channel, or nothing",
        json_schema_extra={"formerly": "per"},
    )
    steps: int = Field(7, ge=1, description="number of steps of that attack")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return with_random_weights(model, partial(_Layer, alpha=self.alpha, granularity=self.granularity), name="pni")

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
            self.pgd(),
        )
        return (label_loss(logits, labels) + label_loss(network(perturbed), labels)) / 2


class _Layer(RandomWeights):
    """A layer with a learned noise strength."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, *, alpha: float, granularity: str) -> None:
        super().__init__(layer)
        weight = layer.weight
        shapes = {"layer": (), "channel": (len(weight), *[1] * (weight.dim() - 1)), "element": weight.shape}
        self.alpha = nn.Parameter(torch.full(shapes[granularity], alpha, dtype=weight.dtype, device=weight.device))

    def sigma(self) -> Tensor:
        return self.alpha * weight_std(self.layer.weight)
