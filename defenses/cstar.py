"""Adversarial training towards convolutions of low rank, which become smaller ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.plain_layers import inner_convolutions
from robustbench_cli.defenses.base.surgery.replacing import replace_layers
from robustbench_cli.defenses.base.surgery.tucker import TuckerConvolution
from robustbench_cli.defenses.base.training.adversarial_training import AdversarialTraining, Forward
from robustbench_cli.defenses.base.training.gradients import gradients_of, label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["CSTAR", "global_ranks", "tucker_weights"]

Shape = tuple[int, int, int]
"""Output channels, input channels, and weights of a kernel."""


class CSTAR(AdversarialTraining):
    """CSTAR: adversarial training under a budget for the ranks of all convolutions, which then become smaller ones.

    From ``warmup`` on, the alternating direction method of multipliers (ADMM) adds ``rho / 2 ||W - Z + U||^2`` to the loss
    on PGD images. Before each epoch, Z becomes the truncated Tucker-2 decomposition of ``W + U``, and U grows by ``W - Z``.
    The ranks of all layers are chosen together, each time anew; see :func:`global_ranks`. Then each convolution is
    decomposed into three (1 x 1, K x K, 1 x 1), and the smaller network is trained for the last epochs. It may begin with a
    network that is trained already::

        advdef train --defense pgd-at --defense cstar --set cstar.warmup=0 -o cstar.safetensors

    In the style of the paper, whose full text was not at hand, only its abstract: the choice of the ranks is ours. The first
    convolution, 1 x 1 convolutions, those with groups and fully connected layers stay; so the column ``parameters`` falls
    by less than ``compression``. ``rho=0`` is the baseline without ADMM: one decomposition after adversarial training.
    """

    paper: ClassVar[str] = (
        "Huy Phan, Miao Yin, Yang Sui, Bo Yuan, Saman Zonouz: CSTAR: Towards Compact and Structured Deep Neural Networks with "
        "Adversarial Robustness. AAAI 2023, arXiv 2212.01957"
    )
    family: ClassVar[str] = "compression"

    compression: float = Field(
        4,
        gt=1,
        description="how many times fewer weights the decomposed convolutions have together; 2 to 64 in the paper",
    )
    rho: float = Field(0.03, ge=0, description="weight of the distance from the weights of low rank; 0: no ADMM")
    warmup: float = Field(
        0.3, ge=0, lt=1, description="fraction of the epochs before the decomposition that go without ADMM"
    )
    tuning: float = Field(
        0.3, gt=0, lt=1, description="fraction of the epochs after the decomposition; at least one epoch on either side"
    )

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        protected = copy.deepcopy(model)
        layers = inner_convolutions(protected, defense="cstar")
        shapes = [_shape(layer) for layer in dict.fromkeys(layers.values())]
        dense, fewest = sum(map(_dense_weights, shapes)), sum(tucker_weights(shape, (1, 1)) for shape in shapes)
        if fewest * self.compression > dense:
            raise UserError(
                f"cstar.compression={self.compression:g} is out of reach: the convolutions have {dense} weights, and {fewest} at "
                f"rank 1; give at most {int(10 * dense / fewest) / 10:g}"
            )
        return replace_layers(protected, layers, TuckerConvolution)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        layers = [layer for layer in model.modules() if isinstance(layer, TuckerConvolution)]
        tuning = max(1, round(self.tuning * trainer.recipe.epochs))

        def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            value = self.loss(network, images, labels)
            if not self.rho or trainer.fraction_done < self.warmup:
                return value
            if trainer.begins_epoch:
                for layer, ranks in zip(layers, self.ranks(layers), strict=True):
                    layer.project(ranks)
            return value + self.rho / 2 * torch.stack([layer.penalty for layer in layers]).sum()

        trainer.fit_with_gradients(
            model,
            gradients_of(loss),
            name="training towards low ranks",
            eps={self.norm: self.radius},
            epochs=max(1, trainer.recipe.epochs - tuning),
        )
        # A resumed training may have done this.
        if layers[0].dense is not None:
            for layer, ranks in zip(layers, self.ranks(layers), strict=True):
                layer.compress(ranks)
        trainer.fit_with_gradients(
            model, gradients_of(self.loss), name="fine-tuning", eps={self.norm: self.radius}, epochs=tuning
        )

    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        return label_loss(forward(perturbed), labels)

    def ranks(self, layers: Sequence[TuckerConvolution]) -> list[tuple[int, int]]:
        """The ranks of the layers within the budget.

        Args:
            layers: All layers, before their decomposition.
        """
        shapes = [_shape(layer.dense) for layer in layers if layer.dense is not None]
        budget = sum(map(_dense_weights, shapes)) / self.compression
        return global_ranks(shapes, [layer.energies for layer in layers], budget)


def _shape(layer: nn.Conv2d) -> Shape:
    return layer.out_channels, layer.in_channels, layer.weight[0, 0].numel()


def _dense_weights(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2]


def tucker_weights(shape: Shape, ranks: tuple[int, int]) -> int:
    """The weights of a decomposed convolution.

    Args:
        shape: Output channels, input channels, and weights of a kernel.
        ranks: The ranks by output and by input channels.

    >>> tucker_weights((32, 16, 9), (4, 2))
    232
    """
    return shape[0] * ranks[0] + ranks[0] * ranks[1] * shape[2] + ranks[1] * shape[1]


def global_ranks(
    shapes: Sequence[Shape], energies: Sequence[tuple[Tensor, Tensor]], budget: float
) -> list[tuple[int, int]]:
    """The ranks of convolutions within a budget of weights for all of them.

    All ranks begin at 1. Then the singular directions of all layers are added, those with the largest share in their layer's
    squared norm first. The shares that are left out add up to a bound on the relative squared errors. A direction is left
    out if it has no share, if the budget does not allow it, or if the layer would have more weights than before.

    Args:
        shapes: Of each layer: output channels O, input channels I, and weights of a kernel.
        energies: Of each layer: the squared singular values by output channels ``(O,)`` and by input channels ``(I,)``,
            largest first.
        budget: The largest number of weights, at least that of all ranks 1.

    Returns:
        The ranks by output and by input channels of each layer.
    """
    ranks = [[1, 1] for _ in shapes]
    used = sum(tucker_weights(shape, (1, 1)) for shape in shapes)
    directions = sorted(
        (-share, layer, mode)
        for layer, of_layer in enumerate(energies)
        for mode, values in enumerate(of_layer)
        for share in (values / values.sum()).tolist()[1:]
        if share > _NO_SHARE
    )
    for _, layer, mode in directions:
        larger = list(ranks[layer])
        larger[mode] += 1
        before, after = (tucker_weights(shapes[layer], (pair[0], pair[1])) for pair in (ranks[layer], larger))
        if used + after - before <= budget and after <= _dense_weights(shapes[layer]):
            ranks[layer], used = larger, used + after - before
    return [(outputs, inputs) for outputs, inputs in ranks]


_NO_SHARE = 1e-6
"""The share in the squared norm that rounding leaves to a direction without any."""
