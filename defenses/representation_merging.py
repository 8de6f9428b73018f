"""Representation merging: activations that take few values."""

from __future__ import annotations

import copy
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.surgery.activations import AfterActivations
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["RepresentationMerging"]


class RepresentationMerging(Defense):
    """Representation merging: every activation is clipped and rounded to a few levels, so that near representations become one.

    The network is trained on clean images with this staircase behind every activation function. In the style of the abstract,
    because the paper's text was not at hand: it says that the defense, as an activation function, compresses and filters what
    reaches the next layer. The levels are ``0, c / (L - 1), ..., c``, for the bound c.

    A staircase has a zero gradient wherever it has one. Training and attacks follow that of the clip in its place, which is 1
    inside ``[0, c]`` and 0 outside. Without it, gradient attacks find nothing, which is no robustness.
    """

    paper: ClassVar[str] = (
        "Haojing Shen, Sihong Chen, Ran Wang, Xizhao Wang, Incorporating Hidden Layer Representation into Adversarial Attacks and "
        "Defences, 2020, arXiv 2011.14045"
    )
    family: ClassVar[str] = "other-training"
    attacked_by: ClassVar[str] = "the gradient of the clip in place of the staircase's, which the model backpropagates"

    levels: int = Field(4, ge=2, le=65536, description="number of values that an activation takes, L")
    bound: float = Field(2, gt=0, description="the largest of them, c")

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        return AfterActivations(copy.deepcopy(model), Staircase(self.levels, self.bound))

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="training")


class Staircase(BPDALayer):
    """Rounds values to the nearest of equidistant levels from 0 to a bound.

    Args:
        levels: Their number.
        bound: The largest.
    """

    def __init__(self, levels: int, bound: float) -> None:
        super().__init__()
        self.levels = levels
        self.bound = bound

    def exact(self, values: Tensor) -> Tensor:
        steps = (self.levels - 1) / self.bound
        return (self.surrogate(values) * steps).round() / steps

    def surrogate(self, values: Tensor) -> Tensor:
        return values.clamp(0, self.bound)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, bound={self.bound}"
