"""Adversarial weight perturbation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from robustbench_cli.defenses.base.training.adversarial_training import AdversarialTraining, Forward
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.mart import MART
from robustbench_cli.defenses.pgd_at import PGDAT
from robustbench_cli.defenses.trades import TRADES

__all__ = ["AWP"]

Averaged = Callable[[Sequence[Tensor | None], Sequence[Tensor], int], Sequence[Tensor | None]]
"""From gradients on a share of a batch, their parameters and the share's size to the gradients on the whole batch."""


class AWP(AdversarialTraining):
    """Adversarial weight perturbation: another adversarial training, at the weights nearby at which its loss is large.

    At each step images are made as the other training makes them. Then the weights w of every layer, but for biases and
    scales, move by ``gamma ||w|| g / (||g|| + 1e-20)``, with the gradient g of that training's loss on the whole batch,
    whichever processes share it; the gradient there is what the weights w themselves descend. It costs one more pass back than the other training, and takes more epochs: a
    network that has learnt nothing yet stays so for long. Batch norm learns from the pass at the moved weights alone;
    images are made in ``eval()`` mode.
    """

    paper: ClassVar[str] = (
        "Wu, Xia, Wang: Adversarial Weight Perturbation Helps Robust Generalization. NeurIPS 2020, arXiv 2004.05884"
    )

    on: Literal["pgd-at", "trades", "mart"] = Field("pgd-at", description="the training whose loss it is")
    gamma: float = Field(
        0.01,
        gt=0,
        le=1,
        description="how far weights move, in their length; the paper has 0.01 for pgd-at, 0.005 for trades",
    )
    beta: float | None = Field(None, ge=0, description="of trades and mart; their own default where not given")

    @model_validator(mode="after")
    def _beta_belongs(self) -> Self:
        if self.beta is not None and self.on == "pgd-at":
            raise ValueError("pgd-at has no beta: leave it out, or give on=trades or on=mart")
        return self

    @property
    def inner(self) -> AdversarialTraining:
        """The other training, with this one's attack."""
        kinds: dict[str, type[AdversarialTraining]] = {"pgd-at": PGDAT, "trades": TRADES, "mart": MART}
        inner = kinds[self.on](eps=self.eps, steps=self.steps, step_size=self.step_size)
        return inner if self.beta is None else inner.model_copy(update={"beta": self.beta})

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        loss = partial(self.loss, averaged=trainer.average_gradients)
        trainer.fit(model, name="adversarial training", loss=loss, eps=self.radius)

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, averaged: Averaged = lambda gradients, *_: gradients
    ) -> Tensor:
        """The mean loss of a training step at the moved weights.

        Args:
            network: In training.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
            averaged: Gives the gradients on the whole batch where ``images`` are only a share of it.
        """
        perturbed = self.perturb(network, images, labels)
        moved = self.perturbed_weights(network, images, perturbed, labels, averaged)
        return self.batch_loss(lambda rows: functional_call(network, moved, (rows,)), images, perturbed, labels)

    def perturb(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return self.inner.perturb(network, images, labels)

    def batch_loss(self, forward: Forward, images: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
        return self.inner.batch_loss(forward, images, perturbed, labels)

    def perturbed_weights(
        self,
        network: nn.Module,
        images: Tensor,
        perturbed: Tensor,
        labels: Tensor,
        averaged: Averaged = lambda gradients, *_: gradients,
    ) -> dict[str, Tensor]:
        """The weights that move, where they move to, by name; a gradient to them is one to the weights themselves.

        Args:
            network: Is left as it is.
            images: ``(B, C, H, W)`` in [0, 1].
            perturbed: ``(B, C, H, W)``, what the attack made of them.
            labels: ``(B,)``.
            averaged: See :meth:`loss`.
        """
        weights = {
            name: parameter
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and parameter.dim() > 1
        }
        # Batch statistics of this pass go to copies.
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        value = self.batch_loss(lambda rows: functional_call(network, buffers, (rows,)), images, perturbed, labels)
        own = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        gradients = averaged(own, list(weights.values()), len(images))
        return {
            name: weight + self.gamma * _along(gradient, weight.detach())
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            if gradient is not None
        }


def _along(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient at the length of the weight; 0 where the gradient is."""
    # The authors' constant. A half-precision number cannot hold it, and a quotient by the smallest float is infinite.
    wide = torch.promote_types(weight.dtype, torch.float32)
    length = weight.to(wide).norm() / (gradient.to(wide).norm() + 1e-20)
    step: Tensor = gradient.to(wide) * length
    return step.to(weight.dtype)
