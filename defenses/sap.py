"""Stochastic activation pruning."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import StochasticLayer, uniform_like
from robustbench_cli.defenses.base.surgery.activations import AfterActivations

__all__ = ["SAP"]


class SAP(RandomizedDefense):
    """Stochastic activation pruning: drops small activations at random and scales up the others; no training.

    Consider the a activations of an image after an activation function. Activation h_j has the probability
    ``p_j = |h_j| / sum_k |h_k|``. It survives with probability ``q_j = 1 - (1 - p_j)^r``, the probability that
    ``r = ratio * a`` draws with replacement hit it. A surviving activation becomes ``h_j / q_j``, so the mean over draws is
    h. Here activations survive independently. The paper makes r draws from all activations together: the probabilities are
    the same, but there activations are slightly dependent.

    The gradient treats q as a constant. So its mean over the draws is the gradient of the model without pruning. With a
    gradient through q this would not hold, because the choice of the survivors has no gradient.
    """

    paper: ClassVar[str] = (
        "Guneet Dhillon, Kamyar Azizzadenesheli, Zachary Lipton, Jeremy Bernstein, Jean Kossaifi, Aran Khanna, "
        "Anima Anandkumar, Stochastic Activation Pruning for Robust Adversarial Defense, ICLR 2018, arXiv 1803.01442"
    )
    family: ClassVar[str] = "random-layers"

    ratio: float = Field(1.0, gt=0, description="number of draws per activation")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return AfterActivations(copy.deepcopy(model), _Pruning(self.ratio))


class _Pruning(StochasticLayer):
    """Prunes activations ``(N, ...)``, independently for each row."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, activations: Tensor) -> Tensor:
        return activations * self._scales(activations) if self.drawing else activations

    @torch.no_grad()
    def _scales(self, activations: Tensor) -> Tensor:
        """The factor of each activation: ``1 / q`` with probability q, else 0."""
        size = activations.abs()
        total = size.sum(tuple(range(1, size.dim())), keepdim=True)
        # If all activations are 0, so are all p. A single activation has p = 1.
        p = (size / total.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(1)
        q = -torch.expm1(self.ratio * activations[0].numel() * torch.log1p(-p))
        # The clamp avoids 0 / 0: where q is 0, the activation never survives.
        return (uniform_like(q) < q) / q.clamp_min(torch.finfo(q.dtype).tiny)

    def extra_repr(self) -> str:
        return f"ratio={self.ratio}"
