"""Cost-sensitive adversarial training, and the min-max property as a regularizer."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.parameters.class_costs import ClassCosts
from robustbench_cli.defenses.base.training.adversarial_training import AdversarialTraining, Forward
from robustbench_cli.defenses.base.training.gradients import label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["CSA", "min_max_penalty"]


class CSA(ClassCosts, AdversarialTraining):
    """Cost-sensitive adversarial training (CSA): the cross-entropy plus the expected cost of the prediction on PGD images.

    The loss is ``CE(f(x'), y) + weight sum_j C[y, j] p_j(x')``. The errors of protected classes cost more, so that these
    classes are harder to attack::

        advdef train --dataset fashion-mnist --defense csa --set 'csa.protected=[Shirt]' -o csa.safetensors

    ``min_max`` adds the paper's second model (CSE). During training most weights of a convolution shrink towards 0 and few
    grow, which the authors call the min-max property. Here the mean of ``|w|_1 / (sqrt(n) |w|_2)`` over the convolutions
    promotes it, with n the number of weights of each. ``adversarial=false`` trains on clean images.

    In the style of the paper: its text was not at hand, only its abstract. The two losses are our choices that fit it.

    The network answers with a protected class more often, also for images of other classes. On digits with the protected
    class 9, its recall under PGD is 67 %, and 28 % with ``pgd-at``. The accuracy over all classes is 3 points lower under PGD
    and 5 lower without an attack; there the precision of the class is 69 %, and 92 % with ``pgd-at``. The min-max
    regularizer gives no robustness.
    ``advdef report --by-class`` shows recall and precision, and ``docs/systems.md`` has the figures. The attack
    ``expected-cost`` with ``false_alarm`` above 1 shows what is left of the precision.
    """

    paper: ClassVar[str] = (
        "Haojing Shen, Sihong Chen, Ran Wang, Xizhao Wang: Adversarial Learning with Cost-Sensitive Classes. IEEE Transactions on "
        "Cybernetics 2022, arXiv 2101.12372"
    )
    family: ClassVar[str] = "adversarial-training"

    weight: float = Field(0.5, ge=0, description="weight of the expected cost")
    min_max: float = Field(0, ge=0, description="weight of the min-max regularizer on the convolutions (CSE)")
    adversarial: bool = Field(True, description="train on PGD images; false: on clean images")

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        if self.adversarial:
            super().fit(model, trainer)
        else:
            trainer.fit(model, name="training", loss=self.loss)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        value = super().loss(network, images, labels)
        return value + self.min_max * min_max_penalty(network) if self.min_max else value

    def perturb(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return super().perturb(network, images, labels) if self.adversarial else images

    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        logits = forward(perturbed)
        classes = logits.shape[1]
        if labels.dim() == 1:
            costs = self.costs(labels, classes)
        else:
            costs = labels @ self.costs(torch.arange(classes, device=labels.device), classes)
        return label_loss(logits, labels) + self.weight * (costs * logits.float().softmax(1)).sum(1).mean()


def min_max_penalty(network: nn.Module) -> Tensor:
    """The mean of ``|w|_1 / (sqrt(n) |w|_2)`` over the convolutions of a network: 1 if all n weights have one size.

    Args:
        network: The network.

    Returns:
        ``()`` in [0, 1]; 0 without convolutions, or if all their weights are 0.

    >>> layer = nn.Conv2d(1, 1, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[[[3.0, 0.0], [0.0, 0.0]]]]))
    >>> min_max_penalty(layer).item()
    0.5
    """
    weights = [
        layer.weight.flatten() for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]
    if not weights:
        return torch.zeros(())
    lengths = [weight.norm().clamp(min=torch.finfo(weight.dtype).tiny) * math.sqrt(len(weight)) for weight in weights]
    return torch.stack([weight.norm(1) / length for weight, length in zip(weights, lengths, strict=True)]).mean()
