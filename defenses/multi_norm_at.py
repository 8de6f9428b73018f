"""Adversarial training in several norms at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import per_image
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.adversarial import InnerPGD, ascend
from robustbench_cli.defenses.base.training.gradients import label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.base.usual_radius import usual_radius_in

__all__ = ["MultiNormAT"]

_Radius = Annotated[float | None, Field(gt=0)]


class MultiNormAT(Defense):
    """Adversarial training in several norms at once, for robustness to the union of their balls.

    ``max`` trains each image on the one of its PGD images, one per norm, that has the largest loss; ``avg`` trains on all of
    them, as one batch (Tramer, Boneh). ``msd``, multi steepest descent, makes one perturbation: each step tries one step of
    each norm, projected onto that norm's ball, and takes the one with the largest loss; of all iterates the one with the
    largest loss is used (Maini, Wong, Kolter). PGD starts at a random point of the ball, ``msd`` at the image, as its
    authors do. The step size is 2.5 times the radius divided by the number of steps, in each norm. The attacks run in
    ``eval()`` mode. With K norms an attack step costs K forward and backward passes, or K + 1 forward passes and one backward
    pass for ``msd``; the step of the weights costs K times as much for ``avg``.
    """

    paper: ClassVar[str] = (
        "Tramer, Boneh: Adversarial Training and Robustness for Multiple Perturbations. NeurIPS 2019, arXiv 1904.13000 (max, "
        "avg); Maini, Wong, Kolter: Adversarial Robustness Against the Union of Multiple Perturbation Models. ICML 2020, arXiv "
        "1909.04068 (msd)"
    )
    family: ClassVar[str] = "adversarial-training"

    combination: Literal["max", "avg", "msd"] = Field(
        "msd", description="max: the worst norm for each image; avg: all norms; msd: the steepest norm in each step"
    )
    norms: tuple[Literal["linf", "l2", "l1"], ...] = Field(
        ("linf", "l2", "l1"), min_length=2, description="the norms, at least two"
    )
    eps_linf: _Radius = Field(
        None, le=1, description="radius in linf; default: the data set's usual radius, 8/255 for CIFAR-10"
    )
    eps_l2: _Radius = Field(
        None,
        description="radius in l2; default: the one that goes with the data set's usual radius in linf, 0.5 for CIFAR-10, 2 for MNIST",
    )
    eps_l1: _Radius = Field(
        None,
        description="radius in l1; default: the one that goes with the data set's usual radius in linf, 12 for CIFAR-10, 10 for MNIST",
    )
    steps: int = Field(10, ge=1, description="number of steps of the attack")

    @field_validator("norms")
    @classmethod
    def _norms_differ(cls, norms: tuple[Norm, ...]) -> tuple[Norm, ...]:
        if len(set(norms)) < len(norms):
            raise ValueError("name each norm once")
        return norms

    @model_validator(mode="after")
    def _radii_belong(self) -> Self:
        for norm in ("linf", "l2", "l1"):
            if norm not in self.norms and getattr(self, f"eps_{norm}") is not None:
                raise ValueError(f"eps_{norm} is given and {norm} is not among norms: add it, or leave eps_{norm} out")
        return self

    def radius_defaults(self, radius: float) -> dict[str, float]:
        return {f"eps_{norm}": usual_radius_in(norm, radius) for norm in self.norms}

    @property
    def radii(self) -> dict[Norm, float]:
        """The radius in each norm."""
        return {norm: self.resolved(f"eps_{norm}") for norm in self.norms}

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return copy.deepcopy(model)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="adversarial training", loss=self.loss, eps=self.radii)

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a training step; see :data:`~.gradients.TrainingLoss`.

        Args:
            network: The network in training.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
        """
        if self.combination == "msd":
            return label_loss(network(self.steepest(network, images, labels)), labels)

        def loss(logits: Tensor) -> Tensor:
            return functional.cross_entropy(logits, labels, reduction="sum")

        perturbed = [ascend(network, images, loss, attack) for attack in self._attacks("ball")]
        if self.combination == "avg":
            return label_loss(network(torch.cat(perturbed)), torch.cat([labels] * len(perturbed)))
        with frozen(network), torch.no_grad():
            worst, _ = _worst(network, perturbed, labels)
        return label_loss(network(worst), labels)

    def steepest(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The perturbed images ``(B, C, H, W)`` of multi steepest descent, detached from the graph.

        Args:
            network: The network in training. It is in ``eval()`` mode during the attack.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
        """
        attacks = self._attacks("image")
        balls = [attack.feasible(images) for attack in attacks]
        iterates, best, highest = images, images, images.new_full((len(images),), -torch.inf)
        with frozen(network):
            for _ in range(self.steps):
                leaf = iterates.detach().requires_grad_()
                loss = functional.cross_entropy(network(leaf), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, leaf)
                with torch.no_grad():
                    steps = [
                        attack.stepped(leaf.detach(), gradient, ball)
                        for attack, ball in zip(attacks, balls, strict=True)
                    ]
                    iterates, losses = _worst(network, steps, labels)
                    best = torch.where(per_image(losses > highest, images), iterates, best)
                    highest = highest.maximum(losses)
        return best

    def _attacks(self, start: Literal["ball", "image"]) -> list[InnerPGD]:
        """The attack in each norm."""
        return [
            InnerPGD(norm=norm, eps=eps, steps=self.steps, step_size=2.5 * eps / self.steps, start=start)
            for norm, eps in self.radii.items()
        ]


def _worst(network: nn.Module, candidates: Sequence[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate ``(B, C, H, W)`` of each image that has the largest loss, and these losses ``(B,)``.

    Args:
        network: In ``eval()`` mode.
        candidates: K batches ``(B, C, H, W)`` of perturbed images.
        labels: ``(B,)``.
    """
    rows = torch.cat(tuple(candidates))
    logits: Tensor = network(rows)
    losses = functional.cross_entropy(logits.float(), torch.cat([labels] * len(candidates)), reduction="none")
    highest, which = losses.view(len(candidates), -1).max(0)
    return rows[which * len(labels) + torch.arange(len(labels), device=rows.device)], highest
