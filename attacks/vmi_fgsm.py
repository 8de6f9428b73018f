"""MI-FGSM with variance tuning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.copies import chunks_of, mean_gradient
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.mi_fgsm import MIFGSM

__all__ = ["VMIFGSM"]


class VMIFGSM(MIFGSM):
    """MI-FGSM whose gradients are tuned by how much the gradient changes around the last iterate.

    To each gradient is added the mean gradient at random neighbors of the last iterate minus the gradient of the last step
    (algorithm 1 of the paper). The neighbors are uniform in a box around the iterate, and clamped to [0, 1].
    """

    paper: ClassVar[str] = (
        "Wang, He: Enhancing the Transferability of Adversarial Attacks through Variance Tuning. CVPR 2021, arXiv 2103.15571"
    )

    neighbors: int = Field(20, ge=1, description="neighbors at each step, each of which takes a pass (N in the paper)")
    neighborhood: float = Field(
        1.5, ge=0, description="largest change of a pixel in a neighbor, as a multiple of eps (beta in the paper)"
    )

    def correction(
        self, source: GradientSource, iterates: Tensor, gradient: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Tensor:
        width = (self.neighborhood * threat.eps).to(iterates.dtype)[:, None, None, None, None]

        def chunks() -> Iterator[tuple[Tensor, list[float]]]:
            for count in chunks_of(self.neighbors):
                moves = random.uniform((count, *iterates.shape[1:])).mul_(2).sub_(1)
                yield torch.addcmul(iterates.unsqueeze(1), moves, width), [1.0] * count

        return mean_gradient(source, chunks(), labels) - gradient
