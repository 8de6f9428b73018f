"""Fast adversarial training: one step from a random start."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.adversarial import ascend
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.base.training.weight_selection import Collapse

__all__ = ["FastAT"]


class FastAT(Defense):
    """Fast adversarial training (FGSM-RS): one signed gradient step from a uniform start, at twice training's cost.

    Networks that learn from one step can suddenly learn to stand that step alone, while PGD breaks them entirely: the
    accuracy under 5 steps of PGD, on one batch of training images, is therefore measured after each epoch, and when it
    falls by ``fall`` the training ends with the weights that it had before. As in the authors' code the network is in
    ``train()`` mode also while images are made, so batch norm takes and learns the statistics of both passes.
    """

    paper: ClassVar[str] = (
        "Wong, Rice, Kolter: Fast is Better than Free: Revisiting Adversarial Training. ICLR 2020, arXiv 2001.03994"
    )
    radius_multiples: ClassVar[Mapping[str, float]] = {"eps": 1}

    eps: float | None = Field(
        None,
        gt=0,
        le=1,
        description="radius in linf of the attack in training; the data set's usual one where not given, 8/255 for CIFAR-10",
    )
    step_size: float | None = Field(None, gt=0, description="of its one step; 1.25 eps where not given")
    fall: float = Field(
        0.2, gt=0, le=1, description="fall of the accuracy under PGD from one epoch to the next that ends the training"
    )

    @property
    def radius(self) -> float:
        """Of the attack, in linf."""
        return self.resolved("eps")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        with trainer.seeded("watched images"):
            watched = trainer.train_indices[torch.randperm(len(trainer.train_indices))][: trainer.recipe.batch_size]
        accuracy = partial(trainer.accuracy, indices=watched, eps=self.radius, steps=5, step_size=self.radius / 4)
        trainer.fit(
            model,
            name="adversarial training",
            loss=self.loss,
            eps=self.radius,
            collapse=Collapse(accuracy=accuracy, drop=self.fall),
        )

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a training step; see :data:`~.training.TrainingLoss`."""
        perturbed = ascend(
            network,
            images,
            lambda logits: functional.cross_entropy(logits, labels, reduction="sum"),
            eps=self.radius,
            steps=1,
            step_size=self.step_size or 1.25 * self.radius,
            training=True,
        )
        return functional.cross_entropy(network(perturbed), labels)
