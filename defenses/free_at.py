"""Free adversarial training: weights and perturbation learn from one pass back."""

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

__all__ = ["FreeAT"]


class FreeAT(Defense):
    """Free adversarial training: each pass back moves the weights down and the perturbation up, at no extra cost.

    Every batch is trained on ``replays`` times in a row, and of the recipe's epochs only that part is left, so that
    there are as many steps as in ordinary training. The perturbation moves by ``eps`` times the sign of its gradient,
    and is handed from a batch to the next, row by row. Before and after each step it is cut to the ball and to the box
    around the present images, so that every pixel has a slope. The authors' code cuts the perturbed image instead,
    inside the pass back: there a pixel beyond 0 or 1 has no slope, and stays where it is. The network is in ``train()``
    mode: batch norm takes and learns the statistics of the perturbed images, since there are no other passes.
    """

    paper: ClassVar[str] = (
        "Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein: Adversarial Training for Free! "
        "NeurIPS 2019, arXiv 1904.12843"
    )
    radius_multiples: ClassVar[Mapping[str, float]] = {"eps": 1}

    eps: float | None = Field(
        None,
        gt=0,
        le=1,
        description="radius in linf of the perturbation, and length of its step; the data set's usual one where not given, "
        "8/255 for CIFAR-10",
    )
    replays: int = Field(4, ge=1, description="times that each batch is trained on in a row")

    @property
    def radius(self) -> float:
        """Of the attack, in linf."""
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
            replays=self.replays,
        )

    def gradients(
        self, network: nn.Module, images: Tensor, labels: Tensor, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The mean loss and its gradients at this perturbation, which then moves; see :data:`~.training.Gradients`."""
        eps, present = self.radius, cast("Perturbed", network).rows[: len(images)]
        low, high = (images - eps).clamp_min_(0), (images + eps).clamp_max_(1)
        # The perturbation comes from other images, which had another box.
        leaf = (images + present).clamp_(low, high).requires_grad_()
        value = functional.cross_entropy(network(leaf), labels)
        *gradients, slope = torch.autograd.grad(value, [*parameters, leaf], allow_unused=True)
        with torch.no_grad():
            present.copy_(torch.add(leaf, slope.sign(), alpha=eps).clamp_(low, high).sub_(images))
        return value, gradients


class Perturbed(nn.Module):
    """A model with the perturbation that is handed from batch to batch, so that a training that goes on has it too.

    Args:
        model: Is held as it is.
        perturbation: ``(B, C, H, W)``, a row for each place in a batch.
        share: Which places fall to this process.
    """

    perturbation: Tensor

    def __init__(self, model: nn.Module, perturbation: Tensor, share: slice = slice(None)) -> None:
        super().__init__()
        self.model = model
        self.share = share
        self.register_buffer("perturbation", perturbation)

    @property
    def rows(self) -> Tensor:
        """The perturbation at this process's places."""
        return self.perturbation[self.share]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)`` as they are."""
        return cast("Tensor", self.model(images))
