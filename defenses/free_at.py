"""Free adversarial training: one backward pass updates the weights and the perturbation."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.base.usual_radius import USUAL_RADIUS

__all__ = ["FreeAT"]


class FreeAT(Defense):
    """Free adversarial training: each backward pass updates both the weights and the perturbation, at no extra cost.

    Every batch is replayed ``replays`` times in a row. The number of epochs is divided by ``replays``, so there are as
    many steps as in standard training. The perturbation moves by ``eps`` times the sign of its gradient and carries over
    to the next batch, row by row. Before and after each step it is clipped to the ball and to the box around the current
    images, so every pixel has a gradient. The authors' code clips the perturbed image inside the backward pass instead:
    there a pixel outside [0, 1] has no gradient and never moves. The network is in ``train()`` mode, and batch norm uses
    and updates the statistics of the perturbed images, because there are no other passes.
    """

    paper: ClassVar[str] = (
        "Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein: Adversarial Training for Free! "
        "NeurIPS 2019, arXiv 1904.12843"
    )
    family: ClassVar[str] = "adversarial-training"
    radius_multiples: ClassVar[Mapping[str, float]] = {"eps": 1}

    eps: float | None = Field(
        None,
        gt=0,
        le=1,
        description="radius in linf of the perturbation, and its step size; default: the data set's usual radius, 8/255 for "
        "CIFAR-10",
    )
    replays: int | None = Field(
        None,
        ge=1,
        description="number of times in a row that each batch is used; default: the authors', 8 if the data set's usual radius is "
        "that of CIFAR-10, 8/255, else 4, as for ImageNet",
    )

    def radius_defaults(self, radius: float) -> dict[str, float]:
        return super().radius_defaults(radius) | {"replays": 8 if radius == USUAL_RADIUS else 4}

    @property
    def radius(self) -> float:
        """The perturbation's radius in linf."""
        return self.resolved("eps")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        images, _ = trainer.batch(trainer.train_indices[:1])
        network = Perturbed(model, images.new_zeros(trainer.largest_batch, *images.shape[1:]), trainer.share)
        trainer.fit_with_gradients(
            network,
            self.gradients,
            name="adversarial training",
            whole=model,
            eps=self.radius,
            replays=int(self.resolved("replays")),
        )

    def gradients(
        self, network: nn.Module, images: Tensor, labels: Tensor, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The mean loss and its gradients at the current perturbation, which it then updates.

        Args:
            network: A :class:`Perturbed` network.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
            parameters: The parameters to differentiate by.

        Returns:
            See :data:`~.gradients.Gradients`.
        """
        eps, perturbation = self.radius, cast("Perturbed", network).rows[: len(images)]
        low, high = (images - eps).clamp_min_(0), (images + eps).clamp_max_(1)
        # The perturbation comes from the previous batch, whose box was another one.
        leaf = (images + perturbation).clamp_(low, high).requires_grad_()
        value = functional.cross_entropy(network(leaf), labels)
        *gradients, image_gradient = torch.autograd.grad(value, [*parameters, leaf], allow_unused=True)
        with torch.no_grad():
            perturbation.copy_(torch.add(leaf, image_gradient.sign(), alpha=eps).clamp_(low, high).sub_(images))
        return value, gradients


class Perturbed(nn.Module):
    """A model with the perturbation that carries over from batch to batch, as a buffer, so the resume file contains it.

    Args:
        model: The model. It is not copied.
        perturbation: ``(B, C, H, W)``, one row for each index in a batch.
        share: The rows of this process.
    """

    perturbation: Tensor

    def __init__(self, model: nn.Module, perturbation: Tensor, share: slice = slice(None)) -> None:
        super().__init__()
        self.model = model
        self.share = share
        self.register_buffer("perturbation", perturbation)

    @property
    def rows(self) -> Tensor:
        """This process's rows of the perturbation."""
        return self.perturbation[self.share]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)``, without the perturbation."""
        return cast("Tensor", self.model(images))
