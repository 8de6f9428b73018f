"""Adversarial images for training, and accuracy on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.defenses.base.usual_radius import UsualRadiusDefaults

__all__ = ["AttackInTraining", "Start", "accuracy_under_pgd", "ascend", "starting_points"]

Start = Literal["ball", "near", "image"]
"""Where the steps begin: uniformly in the ball, beside the image (a normal deviation of 0.001), or at the image."""


class AttackInTraining(UsualRadiusDefaults):
    """The parameters of the methods that train on what steps of PGD in linf make of each batch."""

    radius_multiples: ClassVar[Mapping[str, float]] = {"eps": 1}

    eps: float | None = Field(
        None,
        gt=0,
        le=1,
        description="radius in linf of the attack in training; the data set's usual one where not given, 8/255 for CIFAR-10",
    )
    steps: int = Field(10, ge=1, description="steps of that attack")
    step_size: float | None = Field(None, gt=0, description="of that attack; 2.5 eps / steps where not given")

    @property
    def radius(self) -> float:
        """Of the attack, in linf."""
        return self.resolved("eps")

    @property
    def pgd_step_size(self) -> float:
        """Of each step, in linf."""
        return self.step_size or 2.5 * self.radius / self.steps


def starting_points(images: Tensor, *, eps: float, start: Start) -> Tensor:
    """Where the steps of an attack in linf begin, by draws from torch's global generator; before any cut with the box.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        eps: The radius.
        start: Which place.
    """
    if start == "ball":
        return images + torch.empty_like(images).uniform_(-eps, eps)
    return images + 0.001 * torch.randn_like(images) if start == "near" else images


def ascend(
    network: nn.Module,
    images: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    eps: float,
    steps: int,
    step_size: float,
    start: Start = "ball",
    training: bool = False,
) -> Tensor:
    """Signed gradient steps in linf, for a step of a training: the last iterate, whatever the image was on the way.

    No gradient of a parameter is computed. A randomized network draws anew for each step.

    Args:
        network: In training.
        images: ``(B, C, H, W)`` in [0, 1].
        loss: From logits ``(B, K)`` to a scalar, summed over the rows, that the steps climb.
        eps: The radius.
        steps: How many.
        step_size: Of each.
        start: Where they begin.
        training: Whether the network stays in ``train()`` mode, in which batch norm takes the statistics of the
            perturbed batch and learns from them too. Otherwise it is in ``eval()`` mode meanwhile: batch norm takes the
            statistics that it has and leaves them as they are, and nothing is dropped.

    Returns:
        Images ``(B, C, H, W)`` inside the ball and the box, without a graph.
    """
    low, high = (images - eps).clamp_min_(0), (images + eps).clamp_max_(1)
    iterates = starting_points(images, eps=eps, start=start).clamp(low, high)
    with nullcontext() if training else frozen(network):
        for _ in range(steps):
            leaf = iterates.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(network(leaf)), leaf)
            iterates = leaf.detach().add(gradient.sign(), alpha=step_size).clamp_(low, high)
    return iterates.detach()


def accuracy_under_pgd(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, eps: float, steps: int, step_size: float
) -> float:
    """The share of images that a network in training gets right after :func:`ascend` on the cross-entropy.

    Args:
        network: Its modes and its statistics are left as they are.
        batches: Images ``(B, C, H, W)`` in [0, 1] and labels ``(B,)``.
        eps: The radius; with 0 it is the accuracy on the images themselves.
        steps: How many.
        step_size: Of each.
    """
    right, number = torch.zeros((), dtype=torch.int64), 0
    for images, labels in batches:
        perturbed = images
        if eps > 0:
            perturbed = ascend(
                network,
                images,
                lambda logits, labels=labels: functional.cross_entropy(logits, labels, reduction="sum"),  # type: ignore[misc]
                eps=eps,
                steps=steps,
                step_size=step_size,
            )
        with frozen(network), torch.no_grad():
            right = right.to(labels.device) + (network(perturbed).argmax(1) == labels).sum()
        number += len(labels)
    return right.item() / number
