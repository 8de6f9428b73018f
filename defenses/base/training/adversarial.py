"""PGD inside a training: adversarial images for a step, and the accuracy on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat, random_in_ball, sparse_ascent, steepest_ascent
from robustbench_cli.defenses.base.usual_radius import UsualRadiusDefaults

__all__ = ["AttackInTraining", "InnerPGD", "Start", "accuracy_under_pgd", "ascend", "starting_points"]

Start = Literal["ball", "near", "image"]
"""The starting point: uniform in the ball, the image plus normal noise of standard deviation 0.001, or the image."""

_L1_SPARSITY = 0.03
"""The share of the pixels that a step in l1 changes, as in :class:`~robustbench_cli.attacks.pgd.PGD`."""


@dataclass(frozen=True, kw_only=True)
class InnerPGD:
    """PGD as the inner maximization of a training step.

    Attributes:
        eps: The radius.
        steps: The number of steps.
        step_size: The size of a step.
        norm: The norm of the radius and of the steps.
        start: The kind of starting point.
        training: ``True``: the network stays in ``train()`` mode, so batch norm uses the statistics of the perturbed
            batch and updates its running statistics. ``False``: it is in ``eval()`` mode during the attack, with its
            running statistics and without dropout.
    """

    eps: float
    steps: int
    step_size: float
    norm: Norm = "linf"
    start: Start = "ball"
    training: bool = False

    def feasible(self, images: Tensor) -> FeasibleSet:
        """The perturbed images that the attack allows.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
        """
        return FeasibleSet(images, Threat(norm=self.norm, eps=images.new_full((len(images),), self.eps)))

    def stepped(self, iterates: Tensor, gradient: Tensor, feasible: FeasibleSet) -> Tensor:
        """The iterates after one step along the gradient.

        Args:
            iterates: ``(B, C, H, W)``.
            gradient: ``(B, C, H, W)``.
            feasible: From :meth:`feasible`.
        """
        if self.norm == "l1":
            direction = sparse_ascent(gradient, iterates, math.ceil(_L1_SPARSITY * gradient[0].numel()))
        else:
            direction = steepest_ascent(gradient, self.norm)
        return feasible.project(iterates.add(direction, alpha=self.step_size))


class AttackInTraining(UsualRadiusDefaults):
    """The parameters of the methods that train on images from PGD in linf."""

    radius_multiples: ClassVar[Mapping[str, float]] = {"eps": 1}

    eps: float | None = Field(
        None,
        gt=0,
        le=1,
        description="radius in linf of the attack in training; default: the data set's usual radius, 8/255 for CIFAR-10",
    )
    steps: int = Field(10, ge=1, description="number of steps of that attack")
    step_size: float | None = Field(None, gt=0, description="step size of that attack; default: 2.5 eps / steps")

    @property
    def radius(self) -> float:
        """The attack's radius."""
        return self.resolved("eps")

    @property
    def pgd_step_size(self) -> float:
        """The attack's step size, with the default resolved."""
        return self.step_size or 2.5 * self.radius / self.steps

    def pgd(self, start: Start = "ball") -> InnerPGD:
        """The attack.

        Args:
            start: The kind of starting point.
        """
        return InnerPGD(eps=self.radius, steps=self.steps, step_size=self.pgd_step_size, start=start)


def starting_points(images: Tensor, attack: InnerPGD) -> Tensor:
    """The starting points of an attack, not clipped to the box. They are drawn from torch's global generator.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        attack: Its radius, norm and kind of starting point are used.
    """
    if attack.start == "near":
        return images + 0.001 * torch.randn_like(images)
    if attack.start == "image":
        return images
    if attack.norm == "linf":
        return images + torch.empty_like(images).uniform_(-attack.eps, attack.eps)
    random = Random.of(int(torch.randint(2**62, ())), images)
    return images + random_in_ball(images, attack.feasible(images).threat, random)


def ascend(network: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor], attack: InnerPGD) -> Tensor:
    """PGD for a training step, of which the last iterate is returned.

    It computes no gradients of parameters. A randomized network makes a new draw in each step.

    Args:
        network: The network in training.
        images: ``(B, C, H, W)`` in [0, 1].
        loss: From logits ``(B, K)`` to a scalar, summed over the rows. The steps increase it.
        attack: The settings of PGD.

    Returns:
        Images ``(B, C, H, W)`` inside the ball and the box, detached from the graph.
    """
    feasible = attack.feasible(images)
    iterates = feasible.project(starting_points(images, attack))
    with nullcontext() if attack.training else frozen(network):
        for _ in range(attack.steps):
            leaf = iterates.detach().requires_grad_()
            # A network may write into its input.
            (gradient,) = torch.autograd.grad(loss(network(leaf.clone())), leaf)
            iterates = attack.stepped(leaf.detach(), gradient, feasible)
    return iterates.detach()


def accuracy_under_pgd(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], attacks: Sequence[InnerPGD]
) -> float:
    """The accuracy of a network in training after :func:`ascend` on the cross-entropy, in [0, 1].

    Args:
        network: Its modes and its statistics stay unchanged.
        batches: Images ``(B, C, H, W)`` in [0, 1] and labels ``(B,)``.
        attacks: The attacks. An image counts if it is right under each of them; without attacks, if the clean image is.
    """
    correct, count = torch.zeros((), dtype=torch.int64), 0
    for images, labels in batches:

        def loss(logits: Tensor, labels: Tensor = labels) -> Tensor:
            return functional.cross_entropy(logits, labels, reduction="sum")

        right = torch.ones_like(labels, dtype=torch.bool)
        for perturbed in [ascend(network, images, loss, attack) for attack in attacks] or [images]:
            with frozen(network), torch.no_grad():
                right &= network(perturbed).argmax(1) == labels
        correct = correct.to(labels.device) + right.sum()
        count += len(labels)
    return correct.item() / count
