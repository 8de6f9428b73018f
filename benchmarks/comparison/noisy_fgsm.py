"""Single-step adversarial training, for a model whose images mostly stay unbroken."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["NoisyFGSM"]


class NoisyFGSM(Defense):
    """Adversarial training with one signed gradient step from strong noise, at twice the cost of standard training.

    Its networks resist PGD with any step size. It does not clip, and its noise exceeds the radius; so it avoids the
    catastrophic overfitting of FGSM training, after which the result depends on the attack's steps more than on the
    model.
    """

    paper: ClassVar[str] = (
        "de Jorge, Bibi, Volpi, Sanyal, Torr, Rogez, Dokania: Make Some Noise: Reliable and Efficient Single-Step "
        "Adversarial Training. NeurIPS 2022, arXiv 2202.01181"
    )

    eps: float = Field(0.1, gt=0, description="linf length of the step; the noise is uniform within twice that")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="adversarial training", loss=self._loss)

    def _loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        noisy = (images + torch.empty_like(images).uniform_(-2 * self.eps, 2 * self.eps)).requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(network(noisy), labels), noisy)
        return functional.cross_entropy(network(noisy.detach() + self.eps * gradient.sign()), labels)
