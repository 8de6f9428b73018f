"""PGD inside a training: adversarial images for a step, and the accuracy on them."""

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
"""The starting point: uniform in the ball, the image plus normal noise of standard deviation 0.001, or the image."""


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
        """The attack's radius in linf."""
        return self.resolved("eps")

    @property
    def pgd_step_size(self) -> float:
        """The attack's step size in linf, with the default resolved."""
        return self.step_size or 2.5 * self.radius / self.steps


def starting_points(images: Tensor, *, eps: float, start: Start) -> Tensor:
    """The starting points of an attack in linf, not clipped to the box. They are drawn from torch's global generator.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        eps: The radius.
        start: The kind of starting point.
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
    """PGD in linf for a training step: signed gradient steps, of which the last iterate is returned.

    It computes no gradients of parameters. A randomized network makes a new draw in each step.

    Args:
        network: The network in training.
        images: ``(B, C, H, W)`` in [0, 1].
        loss: From logits ``(B, K)`` to a scalar, summed over the rows. The steps increase it.
        eps: The radius.
        steps: The number of steps.
        step_size: The size of a step.
        start: The kind of starting point.
        training: ``True``: the network stays in ``train()`` mode, so batch norm uses the statistics of the perturbed
            batch and updates its running statistics. ``False``: it is in ``eval()`` mode during the attack, with its
            running statistics and without dropout.

    Returns:
        Images ``(B, C, H, W)`` inside the ball and the box, detached from the graph.
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
    """The accuracy of a network in training after :func:`ascend` on the cross-entropy, in [0, 1].

    Args:
        network: Its modes and its statistics stay unchanged.
        batches: Images ``(B, C, H, W)`` in [0, 1] and labels ``(B,)``.
        eps: The radius; 0 gives the clean accuracy.
        steps: The number of steps.
        step_size: The size of a step.
    """
    correct, count = torch.zeros((), dtype=torch.int64), 0
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
            correct = correct.to(labels.device) + (network(perturbed).argmax(1) == labels).sum()
        count += len(labels)
    return correct.item() / count
