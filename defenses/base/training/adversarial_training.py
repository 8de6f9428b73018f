"""The base of the defenses that train on adversarial images which they make at each step."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.adversarial import AttackInTraining, Start, ascend
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["AdversarialTraining", "Forward", "divergence"]

Forward = Callable[[Tensor], Tensor]
"""From images ``(B, C, H, W)`` to logits ``(B, K)``."""


class AdversarialTraining(AttackInTraining, Defense):
    """Trains on the images that a PGD attack in linf makes of each batch.

    A subclass says what the attack climbs and what the weights descend. While images are made, the network is in
    ``eval()`` mode: batch norm takes its running statistics, as in the authors' code of TRADES and MART, and learns
    from none of the attack's steps. The pass that the weights learn from is in ``train()`` mode; of clean and perturbed
    images, each batch has statistics of its own.
    """

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="adversarial training", loss=self.loss, eps=self.radius)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a training step; see :data:`~.training.TrainingLoss`."""
        return self.batch_loss(network, images, self.perturb(network, images, labels), labels)

    def perturb(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """What the attack makes of images ``(B, C, H, W)``, labels ``(B,)``: by cross-entropy, from a random start."""
        return self.attack(network, images, lambda logits: functional.cross_entropy(logits, labels, reduction="sum"))

    @abstractmethod
    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch whose attack is done.

        Args:
            forward: The network, with the weights that the loss is to be taken at.
            images: ``(B, C, H, W)`` in [0, 1].
            perturbed: ``(B, C, H, W)``, what the attack made of them.
            labels: ``(B,)``.
        """

    def attack(
        self, network: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor], start: Start = "ball"
    ) -> Tensor:
        """The attack of this training on another loss; see :func:`~.adversarial.ascend`."""
        return ascend(
            network, images, loss, eps=self.radius, steps=self.steps, step_size=self.pgd_step_size, start=start
        )


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """The Kullback-Leibler divergence ``(B,)`` of the softmax of ``others`` from that of ``logits``, both ``(B, K)``.

    It is ``sum_k p_k (log p_k - log q_k)``, with p of ``logits`` and q of ``others``, in float32, with a gradient to
    both.
    """
    log_p, log_q = logits.float().log_softmax(1), others.float().log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)
