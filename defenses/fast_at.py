"""Fast adversarial training: a single attack step from a random start."""

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
from robustbench_cli.defenses.base.training.adversarial import InnerPGD, ascend
from robustbench_cli.defenses.base.training.gradients import label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.base.training.weight_selection import Collapse

__all__ = ["FastAT"]


class FastAT(Defense):
    """Fast adversarial training (FGSM-RS): one signed gradient step from a uniform start, at twice the cost of standard training.

    Single-step training can suffer catastrophic overfitting: the network suddenly becomes robust to that one step alone,
    and PGD breaks it entirely. So the accuracy under PGD with 5 steps is measured after each epoch, on one batch of
    training images. If it drops by ``overfitting_drop``, training stops with the weights from before the drop. As in the
    authors' code the network is in ``train()`` mode during the attack too, so batch norm uses and updates the statistics
    of both passes.
    """

    paper: ClassVar[str] = (
        "Wong, Rice, Kolter: Fast is Better than Free: Revisiting Adversarial Training. ICLR 2020, arXiv 2001.03994"
    )
    family: ClassVar[str] = "adversarial-training"
    radius_multiples: ClassVar[Mapping[str, float]] = {"eps": 1}

    eps: float | None = Field(
        None,
        gt=0,
        le=1,
        description="radius in linf of the attack in training; default: the data set's usual radius, 8/255 for CIFAR-10",
    )
    step_size: float | None = Field(None, gt=0, description="step size of the attack; default: 1.25 eps")
    overfitting_drop: float = Field(
        0.2,
        gt=0,
        le=1,
        description="drop of the accuracy under PGD from one epoch to the next that stops the training (catastrophic "
        "overfitting)",
        json_schema_extra={"formerly": "fall"},
    )

    @property
    def radius(self) -> float:
        """The attack's radius in linf."""
        return self.resolved("eps")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        with trainer.seeded("watched images"):
            watched = trainer.train_indices[torch.randperm(len(trainer.train_indices))][: trainer.recipe.batch_size]
        attack = InnerPGD(eps=self.radius, steps=5, step_size=self.radius / 4)
        accuracy = partial(trainer.accuracy, indices=watched, attacks=[attack])
        trainer.fit(
            model,
            name="adversarial training",
            loss=self.loss,
            eps=self.radius,
            collapse=Collapse(accuracy=accuracy, drop=self.overfitting_drop),
        )

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a training step; see :data:`~.gradients.TrainingLoss`.

        Args:
            network: The network in training.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
        """
        perturbed = ascend(
            network,
            images,
            lambda logits: functional.cross_entropy(logits, labels, reduction="sum"),
            InnerPGD(eps=self.radius, steps=1, step_size=self.step_size or 1.25 * self.radius, training=True),
        )
        return label_loss(network(perturbed), labels)
