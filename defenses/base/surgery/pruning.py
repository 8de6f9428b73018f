"""A network that loses its smallest weights in training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from robustbench_cli.defenses.base.surgery.resized import ResizedLayer
from robustbench_cli.defenses.base.training.decayed import split_by_decay
from robustbench_cli.defenses.base.training.gradients import Gradients

__all__ = ["PrunedNetwork", "holding_zeros", "prunable_weights", "smallest"]


class PrunedNetwork(ResizedLayer):
    """A network, with what its pruning needs until :meth:`finish`: the dense network as a teacher, and a multiplier.

    Args:
        network: Computes the logits. It is not copied.

    Attributes:
        teacher: The network before its pruning, with frozen weights; ``None`` after :meth:`finish`.
        multiplier: The Lagrange multiplier of the constraint that the smallest weights are 0 ``()``; ``None`` after
            :meth:`finish`.
    """

    multiplier: Tensor | None

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.teacher: nn.Module | None = copy.deepcopy(network).requires_grad_(False).eval()
        self.register_buffer("multiplier", next(network.parameters()).new_zeros(()))
        self._smallest: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits ``(N, K)`` of images ``(N, C, H, W)``."""
        return cast("Tensor", self.network(images))

    def copy_to_teacher(self) -> None:
        """Gives the teacher the weights of the network."""
        assert self.teacher is not None
        self.teacher.load_state_dict(self.network.state_dict())

    @property
    def violation(self) -> Tensor:
        """The sum of the magnitudes of the weights that were the smallest at the last :meth:`begin_round`, with a graph ``()``."""
        weights = prunable_weights(self.network)
        sums = [(weight.abs() * is_smallest).sum() for weight, is_smallest in zip(weights, self._smallest, strict=True)]
        return torch.stack(sums).sum()

    @torch.no_grad()
    def begin_round(self, count: int, rho: float) -> None:
        """A dual step: selects the smallest weights anew, and the multiplier grows by rho times their mean magnitude.

        Args:
            count: The number of the smallest weights.
            rho: The size of the step.
        """
        assert self.multiplier is not None
        self._smallest = smallest(prunable_weights(self.network), count)
        self.multiplier.add_(rho / count * self.violation)

    @torch.no_grad()
    def prune(self, count: int) -> None:
        """Sets the smallest weights to 0.

        Args:
            count: Their number.
        """
        weights = prunable_weights(self.network)
        for weight, is_smallest in zip(weights, smallest(weights, count), strict=True):
            weight.masked_fill_(is_smallest, 0)

    def finish(self) -> None:
        """Drops what only the training needs."""
        self.teacher = self.multiplier = None
        self._smallest = []

    def resize(self, state: Mapping[str, Tensor]) -> None:
        """Drops what only the training needs, if a state dict is without it."""
        if "multiplier" not in state:
            self.finish()


def prunable_weights(network: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters of a network that have at least two axes and belong to no norm, as weights do.

    Args:
        network: The network.

    >>> [tuple(weight.shape) for weight in prunable_weights(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))]
    [(3, 2)]
    """
    return split_by_decay(network, "weights")[0]


def smallest(weights: Sequence[Tensor], count: int) -> list[Tensor]:
    """Selects the weights of the smallest magnitudes among all tensors. The largest one of each tensor is never selected.

    Args:
        weights: The tensors.
        count: The number of weights to select, at most all but one per tensor.

    Returns:
        For each tensor a mask of its shape. All together have exactly ``count`` elements that are true.

    >>> smallest([torch.tensor([1.0, -2.0]), torch.tensor([3.0, 4.0, -5.0])], 2)
    [tensor([ True, False]), tensor([ True, False, False])]
    """
    magnitudes = [weight.detach().abs().flatten() for weight in weights]
    for of_tensor in magnitudes:
        of_tensor[of_tensor.argmax()] = torch.inf
    indices = torch.cat(magnitudes).topk(count, largest=False, sorted=False).indices
    selected = torch.zeros(sum(map(len, magnitudes)), dtype=torch.bool, device=indices.device)
    selected[indices] = True
    parts = selected.split([*map(len, magnitudes)])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


def holding_zeros(gradients: Gradients) -> Gradients:
    """Gradients with which weights that are 0 stay 0.

    They are 0 there. So is then what an optimizer adds, which begins with them, and so is weight decay.

    Args:
        gradients: The gradients without this.
    """

    def held(
        network: nn.Module, images: Tensor, labels: Tensor, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        value, unheld = gradients(network, images, labels, parameters)
        weights = set(prunable_weights(network))
        return value, [
            gradient * (parameter != 0) if gradient is not None and parameter in weights else gradient
            for parameter, gradient in zip(parameters, unheld, strict=True)
        ]

    return held
