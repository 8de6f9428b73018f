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
    """Stochastic activation pruning: large activations are likelier kept, and what is kept is scaled up; no training.

    After every activation function, an activation h_j of an image's map of a activations has the share
    ``p_j = |h_j| / sum_k |h_k|``. It is kept with probability ``q_j = 1 - (1 - p_j)^r``, which is that of being met by
    any of ``r = ratio * a`` draws with replacement, and becomes ``h_j / q_j``, so that the mean over draws is h. Here
    each activation is kept or not by itself, while the paper's r draws are made from all at once: the probabilities are
    the same, the (slight) dependence between activations is not.

    A gradient takes q as it is, as a constant. Then its mean over the draws is that of the model without pruning;
    through q it would not be, since which activations are kept has no slope.
    """

    paper: ClassVar[str] = (
        "Guneet Dhillon, Kamyar Azizzadenesheli, Zachary Lipton, Jeremy Bernstein, Jean Kossaifi, Aran Khanna, "
        "Anima Anandkumar, Stochastic Activation Pruning for Robust Adversarial Defense, ICLR 2018, arXiv 1803.01442"
    )

    ratio: float = Field(1.0, gt=0, description="draws from each map, for each activation in it")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return AfterActivations(copy.deepcopy(model), _Pruning(self.ratio))


class _Pruning(StochasticLayer):
    """Keeps some of the activations ``(N, ...)``, each row's by themselves."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, activations: Tensor) -> Tensor:
        return activations * self._scales(activations) if self.drawing else activations

    @torch.no_grad()
    def _scales(self, activations: Tensor) -> Tensor:
        size = activations.abs()
        total = size.sum(tuple(range(1, size.dim())), keepdim=True)
        # Of a map of zeros all shares are 0, and of a single activation the share is 1.
        share = (size / total.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(1)
        kept = -torch.expm1(self.ratio * activations[0].numel() * torch.log1p(-share))
        # Where the chance is 0, nothing is kept and nothing is divided by 0.
        return (uniform_like(kept) < kept) / kept.clamp_min(torch.finfo(kept.dtype).tiny)

    def extra_repr(self) -> str:
        return f"ratio={self.ratio}"
