"""Networks that learn from all training examples at once, and not by gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["LearnsAtOnce", "inputs_of", "learner_in"]


class LearnsAtOnce(nn.Module, ABC):
    """A module that learns in one call, such as an estimator of scikit-learn."""

    @property
    @abstractmethod
    def has_learned(self) -> bool:
        """Whether it classifies images; before, its logits are all equal."""

    @abstractmethod
    def learn(self, images: Tensor, labels: Tensor, *, seed: int) -> None:
        """Learns in place.

        Args:
            images: ``(N, C, H, W)``, what the layers before it make of the training images.
            labels: ``(N,)``, their classes.
            seed: Determines every random draw.
        """


def learner_in(network: nn.Module) -> LearnsAtOnce | None:
    """The module in a network that learns at once, or ``None``.

    Args:
        network: A network, possibly with its normalization.
    """
    return next((module for module in network.modules() if isinstance(module, LearnsAtOnce)), None)


def inputs_of(module: nn.Module, network: nn.Module, images: Tensor) -> Tensor:
    """What a module in a network gets for images.

    Args:
        module: Runs once in each pass.
        network: Contains it.
        images: ``(N, C, H, W)`` in [0, 1].
    """
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            network(images)
    finally:
        hook.remove()
    return seen[0]
