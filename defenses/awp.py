"""Adversarial weight perturbation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

AverageGradients = Callable[[Sequence[Tensor | None], Sequence[Tensor], int], Sequence[Tensor | None]]
"""From the gradients on a share of a batch, their parameters and the share's size to the gradients on the whole batch."""


def _whole_batch(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], images: int
) -> Sequence[Tensor | None]:
    """The gradients as they are: the share is the whole batch."""
    return gradients


class AWP(AdversarialTraining):
    """Adversarial weight perturbation (AWP): another adversarial training, with its loss at perturbed weights.

    Each step makes adversarial images as the other training does. Then it perturbs the weights w of every layer, except
    biases and scales, by ``gamma ||w|| g / (||g|| + 1e-20)``, where g is the gradient of that training's loss on the whole
    batch. The gradient at the perturbed weights updates the original weights. A step costs one more backward pass than in
    the other training, and training needs more epochs, because the first epochs make little progress. Batch norm learns
    only from the pass at the perturbed weights.
    """

    paper: ClassVar[str] = (
        "Wu, Xia, Wang: Adversarial Weight Perturbation Helps Robust Generalization. NeurIPS 2020, arXiv 2004.05884"
    )
    family: ClassVar[str] = "adversarial-training"

    objective: Literal["pgd-at", "trades", "mart"] = Field(
        "pgd-at", description="the adversarial training whose loss is used", json_schema_extra={"formerly": "on"}
    )
    gamma: float = Field(
        default_factory=lambda fields: 0.005 if fields.get("objective") == "trades" else 0.01,
        gt=0,
        le=1,
        description="size of the weight perturbation relative to the norm of the weights; default: the paper's, 0.005 for trades, "
        "else 0.01",
    )
    beta: float | None = Field(None, ge=0, description="beta of trades or mart; default: theirs")
    warmup: float = Field(
        0,
        ge=0,
        lt=1,
        description="fraction of the training before the weights are perturbed; 9 of 200 epochs in the authors' code of trades",
        exclude_if=lambda warmup: warmup == 0,
    )

    @model_validator(mode="after")
    def _beta_belongs(self) -> Self:
        if self.beta is not None and self.objective == "pgd-at":
            raise ValueError("pgd-at has no beta: leave it out, or give objective=trades or objective=mart")
        return self

    @property
    def inner(self) -> AdversarialTraining:
        """The other training, with the parameters of this one's attack."""
        kinds: dict[str, type[AdversarialTraining]] = {"pgd-at": PGDAT, "trades": TRADES, "mart": MART}
        attack = {key: getattr(self, key) for key in AdversarialTraining.model_fields}
        inner = kinds[self.objective](**attack)
        return inner if self.beta is None else inner.model_copy(update={"beta": self.beta})

    @property
    def takes_mixed_labels(self) -> bool:
        return self.inner.takes_mixed_labels

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            if trainer.fraction_done < self.warmup - 1e-9:
                return self.inner.loss(network, images, labels)
            return self.loss(network, images, labels, trainer.average_gradients)

        trainer.fit(model, name="adversarial training", loss=loss, eps={self.norm: self.radius})

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, average: AverageGradients = _whole_batch
    ) -> Tensor:
        """The mean loss of a training step at the perturbed weights.

        Args:
            network: The network in training.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
            average: Computes the gradients on the whole batch, if ``images`` are only this process's share of it.
        """
        perturbed = self.perturb(network, images, labels)
        weights = self.perturbed_weights(network, images, perturbed, labels, average)
        return self.batch_loss(lambda rows: functional_call(network, weights, (rows,)), images, perturbed, labels)

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
        average: AverageGradients = _whole_batch,
    ) -> dict[str, Tensor]:
        """The perturbed weights by name. A gradient with respect to them is also one with respect to the weights.

        Args:
            network: The network in training. It stays unchanged.
            images: ``(B, C, H, W)`` in [0, 1].
            perturbed: The adversarial images ``(B, C, H, W)``.
            labels: ``(B,)``.
            average: See :meth:`loss`.
        """
        weights = {
            name: parameter
            for name, parameter in network.named_parameters()
            if parameter.requires_grad and parameter.dim() > 1
        }
        # This pass updates the batch statistics of copies, not those of the network.
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        value = self.batch_loss(lambda rows: functional_call(network, buffers, (rows,)), images, perturbed, labels)
        local = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        gradients = average(local, list(weights.values()), len(images))
        return {
            name: weight + self.gamma * _rescaled(gradient, weight.detach())
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            if gradient is not None
        }


def _rescaled(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient, scaled to the norm of the weight; 0 for a zero gradient."""
    # 1e-20 is the authors' constant. It needs float32: in half precision it would be 0.
    wide = torch.promote_types(weight.dtype, torch.float32)
    length = weight.to(wide).norm() / (gradient.to(wide).norm() + 1e-20)
    step: Tensor = gradient.to(wide) * length
    return step.to(weight.dtype)
