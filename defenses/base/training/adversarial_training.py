"""The base of the defenses that make adversarial images in each training step."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from robustbench_cli.attacks.base.models.freezing import frozen, override_layers
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.adversarial import AttackInTraining, InnerPGD, Start, ascend
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.base.usual_radius import usual_radius_in

__all__ = ["AdversarialTraining", "Forward", "kl_divergence"]

Forward = Callable[[Tensor], Tensor]
"""From images ``(B, C, H, W)`` to logits ``(B, K)``."""


class AdversarialTraining(AttackInTraining, Defense):
    """Adversarial training: attacks each batch by PGD and trains on the result.

    A subclass defines the loss of the attack and the loss of the weights. During the attack the network is in ``eval()``
    mode unless ``attack_mode`` says otherwise: batch norm uses its running statistics and does not update them, as in the
    authors' code of TRADES and MART. The pass that gives the weights' gradient is in ``train()`` mode. Clean and perturbed
    images are separate batches there, each with its own batch statistics.
    """

    eps: float | None = Field(
        None,
        gt=0,
        description="radius of the attack in training; default: the data set's usual radius in linf, 8/255 for CIFAR-10; in l2 "
        "and l1 the one that goes with it, 0.5 and 12 for CIFAR-10, 2 and 10 for MNIST",
    )
    norm: Literal["linf", "l2", "l1"] = Field(
        "linf", description="norm of that attack", exclude_if=lambda norm: norm == "linf"
    )
    attack_mode: Literal["eval", "train", "batch"] = Field(
        "eval",
        description="batch norm and dropout during the attack: eval: running statistics, no dropout; train: statistics of the "
        "batch, which update the running ones, and dropout; batch: like train without the update",
        exclude_if=lambda mode: mode == "eval",
    )

    @model_validator(mode="after")
    def _radius_is_in_the_box(self) -> Self:
        if self.norm == "linf" and self.eps is not None and self.eps > 1:
            raise ValueError(f"eps is {self.eps:g}: give at most 1 in linf, or norm=l2 or norm=l1")
        return self

    def radius_defaults(self, radius: float) -> dict[str, float]:
        return {"eps": usual_radius_in(self.norm, radius)}

    def pgd(self, start: Start = "ball") -> InnerPGD:
        return replace(super().pgd(start), norm=self.norm)

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="adversarial training", loss=self.loss, eps={self.norm: self.radius})

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a training step; see :data:`~.gradients.TrainingLoss`.

        Args:
            network: The network in training.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
        """
        return self.batch_loss(network, images, self.perturb(network, images, labels), labels)

    def perturb(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The adversarial images of a batch: PGD on the cross-entropy from a random start, unless a subclass says otherwise.

        Args:
            network: The network in training.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
        """
        return self.attack(network, images, lambda logits: functional.cross_entropy(logits, labels, reduction="sum"))

    @abstractmethod
    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch with its adversarial images.

        Args:
            forward: The network, possibly with other weights.
            images: ``(B, C, H, W)`` in [0, 1].
            perturbed: The adversarial images ``(B, C, H, W)``.
            labels: ``(B,)``.
        """

    def attack(
        self, network: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor], start: Start = "ball"
    ) -> Tensor:
        """Runs this training's PGD on a loss; see :func:`~.adversarial.ascend`.

        Args:
            network: The network in training.
            images: ``(B, C, H, W)`` in [0, 1].
            loss: From logits ``(B, K)`` to a scalar, summed over the rows.
            start: The kind of starting point.
        """
        with self.attacking(network):
            # ``attacking`` has set the mode.
            return ascend(network, images, loss, replace(self.pgd(start), training=True))

    def attacking(self, network: nn.Module) -> AbstractContextManager[object]:
        """The mode of the network during the attack, within a context; see ``attack_mode``.

        Args:
            network: The network in training, in ``train()`` mode.
        """
        if self.attack_mode == "batch":
            # In train() mode, batch norm updates its running statistics only if it tracks them.
            return override_layers(network, _BatchNorm, track_running_stats=False)
        return frozen(network) if self.attack_mode == "eval" else nullcontext()


def kl_divergence(logits: Tensor, other_logits: Tensor) -> Tensor:
    """The Kullback-Leibler divergence ``KL(p || q) = sum_k p_k (log p_k - log q_k)`` of two softmaxes, in float32.

    Args:
        logits: ``(B, K)``, whose softmax is p.
        other_logits: ``(B, K)``, whose softmax is q.

    Returns:
        ``(B,)``, differentiable in both arguments.
    """
    log_p, log_q = logits.float().log_softmax(1), other_logits.float().log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)
