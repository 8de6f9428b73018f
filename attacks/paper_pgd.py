"""Projected gradient descent as in the authors' code of Hierarchical Random Switching."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.graphed_steps import GraphedSteps, State
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import closed_form, cross_entropy, slope_and_value
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.adam import bias_corrections, update_moments
from robustbench_cli.attacks.base.threat import FeasibleSet, Threat

__all__ = ["PaperPGD"]

_SMALLEST_ROOT = 1e-8
"""TensorFlow adds it to the root of the second moment without a correction of its bias."""


class PaperPGD(FixedRadiusAttack):
    """PGD of the authors' code for ``hrs``: Adam on the sign of the gradient, and the last iterate.

    It is for figures beside those of the paper. ``pgd`` takes the step itself along the sign, starts anywhere in the ball and
    returns the best iterate. The paper's attacks aim at every wrong class: ``--targeted all``. With the gradient of one draw
    (``--eot 1``) and the mean over ten (``--eot 10``) they are its "white-box" and its "gradient mean" setting.

    Three details are the code's and not the paper's. The step is Adam's, so signs of earlier steps count too. The search starts
    at the darkest point of the ball, because the variable of the iterate is 0 when it is first clipped. The last iterate is
    the result although an earlier one may be better.
    """

    paper: ClassVar[str] = (
        "Wang, Wang, Chen, Wang, Kulis, Lin, Chin: Protecting Neural Networks with Hierarchical Random Switching. IJCAI 2019, "
        "arXiv 1908.07116, appendix C.1; the class PGD in attack_utils.py of the authors' code"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    steps: int = Field(100, ge=1, description="steps of Adam")
    lr: float = Field(0.1, gt=0, description="learning rate of Adam, on the [0, 1] pixel scale")

    @staticmethod
    @closed_form(partial(slope_and_value, cross_entropy))
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        """The loss ``(M,)`` that the attack maximizes, or minimizes if targeted, for logits ``(M, K)`` and labels ``(M,)``."""
        return cross_entropy(logits, labels)

    @staticmethod
    def for_adam(gradient: Tensor) -> Tensor:
        """What Adam gets for a gradient ``(N, C, H, W)``: its sign."""
        return gradient.sign()

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        feasible = FeasibleSet(images, threat)
        step = GraphedSteps(source, partial(self._step, source, feasible))
        numbers = [bias_corrections(number)[0] for number in range(1, self.steps + 1)]
        state = {
            **feasible.tensors(),
            "labels": labels,
            "iterates": feasible.project(torch.zeros_like(images)),
            "first": torch.zeros_like(images),
            "second": torch.zeros_like(images),
        }
        for factor in torch.tensor(numbers, dtype=images.dtype, device=images.device):
            state = step(state, factor)
        return state["iterates"]

    def _step(self, source: GradientSource, feasible: FeasibleSet, state: State, factor: Tensor) -> State:
        """What changes in a step of Adam whose bias is corrected by ``factor`` ``()``."""
        iterates, feasible = state["iterates"], feasible.of_tensors(state)
        _, gradient = source.gradient(iterates, state["labels"], self.loss)
        descent = self.for_adam(gradient if feasible.threat.targeted else -gradient)
        root = update_moments(descent, state["first"], state["second"], _SMALLEST_ROOT)
        return {"iterates": feasible.project(torch.addcdiv(iterates, -self.lr * factor * state["first"], root))}

    def reach(self) -> float | None:
        return self.steps * self.lr
