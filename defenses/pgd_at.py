"""Adversarial training by projected gradient descent."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from robustbench_cli.defenses.base.training.adversarial_training import AdversarialTraining, Forward
from robustbench_cli.defenses.base.training.gradients import label_loss

__all__ = ["PGDAT"]


class PGDAT(AdversarialTraining):
    """Adversarial training: the loss is the cross-entropy on PGD images only.

    PGD maximizes the cross-entropy from a uniform start in the ball. The paper uses 40 steps of 0.01 at a radius of 0.3
    for MNIST, and 7 steps of 2/255 at 8/255 for CIFAR-10. The authors' code runs PGD in ``train()`` mode;
    see ``attack_mode``.
    """

    paper: ClassVar[str] = (
        "Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks. "
        "ICLR 2018, arXiv 1706.06083"
    )
    family: ClassVar[str] = "adversarial-training"

    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        return label_loss(forward(perturbed), labels)
