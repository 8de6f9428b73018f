"""The Nesterov iterative fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.mi_fgsm import MIFGSM

__all__ = ["NIFGSM"]


class NIFGSM(MIFGSM):
    """MI-FGSM with the gradient taken one step ahead along the momentum (Nesterov's accelerated gradient).

    The gradient is taken at ``x + step_size decay g`` (equation 6 of the paper), clipped to the box. As in the authors' code, g is
    in units in which the mean absolute gradient is 1. In those of the formula, ``grad / |grad|_1``, the point ahead would be all
    but the iterate itself.
    """

    paper: ClassVar[str] = (
        "Lin, Song, He, Wang, Hopcroft: Nesterov Accelerated Gradient and Scale Invariance for Adversarial Attacks. "
        "ICLR 2020, arXiv 1908.06281"
    )

    def look_ahead(self, iterates: Tensor, momentum: Tensor, size: Tensor) -> Tensor:
        return torch.addcmul(iterates, momentum, size, value=self.decay * iterates[0].numel()).clamp_(0, 1)
