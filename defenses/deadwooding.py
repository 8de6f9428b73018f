"""Pruning towards an exact sparsity by a Lagrangian dual, with adversarial training and distillation."""

from __future__ import annotations

import copy
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.pruning import PrunedNetwork, holding_zeros, prunable_weights
from robustbench_cli.defenses.base.training.adversarial_training import kl_divergence
from robustbench_cli.defenses.base.training.gradients import gradients_of, label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.pgd_at import PGDAT

__all__ = ["Deadwooding"]


class Deadwooding(PGDAT):
    """Deadwooding: pruning of all layers to an exact sparsity by a Lagrangian dual, then distillation under attack.

    The training has three parts. First, a dense network is trained on PGD images, if it is not trained already::

        advdef train --defense pgd-at --defense deadwooding --set deadwooding.warmup=0 -o deadwooding.safetensors

    Second, the loss on PGD images gets a multiplier times the summed magnitude of the smallest weights of all layers, which
    are a fraction ``sparsity`` of them. They are to become 0. Before each epoch they are selected anew, and the
    multiplier grows by ``rho`` times their mean magnitude (dual ascent). Third, they are set to 0 and stay 0, and the loss
    is ``(1 - distillation) CE(f(x'), y) + distillation T^2 KL(p(x) || q(x'))``. Here x' is the PGD image, and p and q are the
    softmaxes of the dense and of the pruned network at the temperature T.

    In the style of the paper, whose full text was not at hand, only its abstract: the constraint, its multiplier and the loss
    of the third part are our choices. ``rho=0`` is the baseline without the multiplier: one-shot pruning by magnitude, with
    the same fine-tuning.

    The weights are the parameters with two or more axes, outside norms; biases stay. The largest weight of each layer stays
    too, so no layer is lost. Zeros are still stored and multiplied: the column ``nonzero`` falls, ``parameters`` and
    ``macs`` do not.
    """

    paper: ClassVar[str] = (
        "Sawinder Kaur, Ferdinando Fioretto, Asif Salekin: Deadwooding: Robust Global Pruning for Deep Neural Networks. "
        "2022, arXiv 2202.05226"
    )
    family: ClassVar[str] = "compression"

    sparsity: float = Field(0.9, gt=0, lt=1, description="fraction of all weights that become exactly 0")
    rho: float = Field(
        0.2, ge=0, description="growth of the multiplier in an epoch, per mean magnitude; 0: no multiplier"
    )
    warmup: float = Field(
        0.5, ge=0, lt=1, description="fraction of the epochs before the pruning that train the dense network"
    )
    tuning: float = Field(
        0.3, gt=0, lt=1, description="fraction of the epochs after the pruning; at least one epoch on either side"
    )
    distillation: float = Field(
        0.5, ge=0, le=1, description="weight of the distillation from the dense network after the pruning"
    )
    temperature: float = Field(1, gt=0, description="temperature T of the distillation")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        network = copy.deepcopy(model)
        weights = prunable_weights(network)
        if not weights:
            raise UserError(f"deadwooding prunes weights, and {type(model).__name__} has none to train")
        total, count = sum(weight.numel() for weight in weights), self._count(network)
        if not 0 < count <= total - len(weights):
            raise UserError(
                f"deadwooding.sparsity={self.sparsity:g} is out of reach: it is {count:,} of {total:,} weights, and one in each of "
                f"the {len(weights)} layers stays; give {1 / total:.1g} to {int(1e4 * (1 - len(weights) / total)) / 1e4:g}"
            )
        return PrunedNetwork(network)

    def _count(self, network: nn.Module) -> int:
        """The number of weights that become 0."""
        return round(self.sparsity * sum(weight.numel() for weight in prunable_weights(network)))

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        assert isinstance(model, PrunedNetwork)
        train = partial(trainer.fit_with_gradients, model.network, whole=model, eps={self.norm: self.radius})
        count, tuning = self._count(model.network), max(1, round(self.tuning * trainer.recipe.epochs))
        before = max(1, trainer.recipe.epochs - tuning)
        dense = min(round(self.warmup * before), before - 1)

        def pressed(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            if trainer.begins_epoch:
                model.begin_round(count, self.rho)
            assert model.multiplier is not None
            return self.loss(network, images, labels) + model.multiplier * model.violation

        if dense:
            train(gradients_of(self.loss), name="dense training", epochs=dense, on_finish=model.copy_to_teacher)
        train(
            gradients_of(pressed),
            name="training towards zeros",
            epochs=before - dense,
            on_finish=partial(model.prune, count),
        )
        distilled = partial(self.distilled_loss, model)
        train(holding_zeros(gradients_of(distilled)), name="fine-tuning", epochs=tuning, on_finish=model.finish)

    def distilled_loss(self, model: PrunedNetwork, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a step after the pruning.

        Args:
            model: Has the dense network.
            network: The network in training.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
        """
        assert model.teacher is not None
        perturbed = self.perturb(network, images, labels)
        with torch.no_grad():
            soft = model.teacher(images) / self.temperature
        logits = network(perturbed)
        distance = kl_divergence(soft, logits / self.temperature).mean()
        return (1 - self.distillation) * label_loss(logits, labels) + self.distillation * self.temperature**2 * distance
