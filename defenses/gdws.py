"""Generalized depthwise-separable convolutions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.surgery.depthwise import DepthwiseSeparable
from robustbench_cli.defenses.base.surgery.plain_layers import inner_convolutions
from robustbench_cli.defenses.base.surgery.replacing import replace_layers
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["GDWS", "channel_weights", "fewest_pairs", "most_important_pairs"]


class GDWS(Defense):
    """Generalized depthwise-separable convolutions: makes a trained network cheaper, without any training.

    It is no defense of its own: put it behind adversarial training, as ``--defense pgd-at --defense gdws``. Each convolution
    is replaced by the :class:`~robustbench_cli.defenses.base.surgery.depthwise.DepthwiseSeparable` one whose weights are
    nearest among those with as many depthwise kernels (MEGO), or by the one with the fewest kernels within an error (LEGO).
    The squared error of input channel c has a weight, as in the authors' code: how much the gaps between the largest logit
    and the others move with the channel's weights, ``sum_j ||d(z_top - z_j) / dW_c||^2 / (2 (z_top - z_j)^2 M K^2)``,
    as a mean over clean training images. The first convolution, 1 x 1 convolutions, those with groups or random weights, and
    subclasses of ``nn.Conv2d``, whose outputs may be others, stay.

    A kernel costs ``K^2 + M`` multiply-accumulates per pixel, and the convolution ``M C K^2``. So a small error may make a
    layer dearer: see the column ``macs``.
    """

    paper: ClassVar[str] = (
        "Hassan Dbouk, Naresh Shanbhag, Generalized Depthwise-Separable Convolutions for Adversarially Robust and Efficient "
        "Neural Networks, NeurIPS 2021, arXiv 2110.14871"
    )
    family: ClassVar[str] = "compression"
    trains: ClassVar[bool] = False

    error: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="largest relative error of a layer's weights, by weighted channels (LEGO); default: 0.1 without macs",
    )
    macs: float | None = Field(
        None,
        gt=0,
        le=1,
        description="fraction of a layer's multiply-accumulates that its kernels may cost (MEGO), instead of error",
    )
    samples: int = Field(
        100, ge=0, description="number of training images that weigh the channels; 0: all weights are 1"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.macs is not None and self.error is not None:
            raise ValueError("error and macs exclude each other: give one of them")
        return self

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        protected = copy.deepcopy(model)
        return replace_layers(protected, inner_convolutions(protected, defense="gdws"), DepthwiseSeparable)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        layers = [layer for layer in model.modules() if isinstance(layer, DepthwiseSeparable)]
        for layer, importance in zip(layers, self._importance(model, layers, trainer), strict=True):
            errors = importance[layer.channels] * layer.errors()
            if self.macs is None:
                error = 0.1 if self.error is None else self.error
                layer.keep(fewest_pairs(errors, error**2 * float(errors.sum())))
            else:
                size = layer.depthwise.weight[0].numel()
                affordable = self.macs * layer.outputs * layer.inputs * size / (size + layer.outputs)
                layer.keep(most_important_pairs(errors, max(1, int(affordable))))

    def _importance(self, model: nn.Module, layers: Sequence[DepthwiseSeparable], trainer: Trainer) -> Sequence[Tensor]:
        """The weights ``(C,)`` of the input channels of each layer."""
        convolutions = [layer.convolution() for layer in layers]
        # A copy of the model that has them in place of the layers.
        memo: dict[int, Any] = {id(layer): made for layer, made in zip(layers, convolutions, strict=True)}
        dense = copy.deepcopy(model, memo).eval().requires_grad_(False)
        count = min(self.samples, len(trainer.examples))
        with trainer.seeded("samples"):
            images = list(torch.randperm(len(trainer.examples))[:count].unsqueeze(1))
        of_images = [
            channel_weights(dense, convolutions, trainer.batch(image)[0])
            for image in trainer.steps(images, name="weighing the channels")
        ]
        means = [torch.stack(of_layer).mean(0) for of_layer in zip(*of_images, strict=True)]
        # Without images, or where no gap depends on a layer, all channels are alike.
        return [
            means[number] if means and bool(means[number].any()) else torch.ones(layer.inputs, device=trainer.device)
            for number, layer in enumerate(layers)
        ]


def fewest_pairs(errors: Tensor, largest: float) -> Tensor:
    """The fewest pairs that keep the error of leaving out the others within a limit (LEGO); at least one.

    Args:
        errors: The squared errors ``(G,)`` of leaving out each pair.
        largest: The largest squared error of all pairs that are left out.

    Returns:
        Their indices ``(G',)``, ascending.
    """
    ascending, order = errors.double().sort()
    left_out = int((ascending.cumsum(0) <= largest).sum())
    return order[min(left_out, len(order) - 1) :].sort().values


def most_important_pairs(errors: Tensor, count: int) -> Tensor:
    """The pairs that leave the smallest error, for a number of pairs (MEGO).

    Args:
        errors: The squared errors ``(G,)`` of leaving out each pair.
        count: The number of pairs; all if there are fewer.

    Returns:
        Their indices ``(G',)``, ascending.
    """
    return errors.topk(min(count, len(errors))).indices.sort().values


def channel_weights(model: nn.Module, layers: Sequence[nn.Conv2d], image: Tensor) -> list[Tensor]:
    """How much the gaps between the largest logit of an image and the others move with the weights of input channels.

    Args:
        model: The model, in evaluation mode.
        layers: Convolutions of it. Their weights are set to require gradients.
        image: ``(1, C, H, W)``.

    Returns:
        For each layer the weights ``(C,)`` of its input channels, as :class:`GDWS` defines them for one image.
    """
    weights = [layer.weight.requires_grad_() for layer in layers]
    with torch.enable_grad():
        logits = model(image)[0]
    top = int(logits.argmax())
    of_layers = [torch.zeros(layer.in_channels, device=image.device) for layer in layers]
    for number in range(len(logits)):
        if number == top:
            continue
        gap = logits[top] - logits[number]
        gradients = torch.autograd.grad(gap, weights, retain_graph=True, materialize_grads=True)
        square = gap.detach().square().clamp_min(torch.finfo(gap.dtype).tiny)
        for of_layer, gradient in zip(of_layers, gradients, strict=True):
            of_layer.add_(gradient.square().sum((0, 2, 3)) / (2 * square * gradient[:, 0].numel()))
    return of_layers
