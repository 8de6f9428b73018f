"""The base of the defenses that make adversarial images in each training step."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.adversarial import AttackInTraining, Start, ascend
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["AdversarialTraining", "Forward", "kl_divergence"]

Forward = Callable[[Tensor], Tensor]
"""From images ``(B, C, H, W)`` to logits ``(B, K)``."""


class AdversarialTraining(AttackInTraining, Defense):
    """Adversarial training: attacks each batch by PGD in linf and trains on the result.

    A subclass defines the loss of the attack and the loss of the weights. During the attack the network is in ``eval()``
    mode: batch norm uses its running statistics and does not update them, as in the authors' code of TRADES and MART. The
    pass that gives the weights' gradient is in ``train()`` mode. Clean and perturbed images are separate batches there,
    each with its own batch statistics.
    """

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="adversarial training", loss=self.loss, eps=self.radius)

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
        return ascend(
            network, images, loss, eps=self.radius, steps=self.steps, step_size=self.pgd_step_size, start=start
        )


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
