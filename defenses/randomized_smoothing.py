"""Randomized smoothing: training with Gaussian noise, and the vote of several noisy draws."""

from __future__ import annotations

import copy
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.defenses.base.decision_rules import Decision, DecisionRule
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import NoiseLayer
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["RandomizedSmoothing", "base_classifier"]


class RandomizedSmoothing(RandomizedDefense):
    """Randomized smoothing: the vote of several noisy draws of a model that was trained with Gaussian noise.

    The model's input is ``x + sigma * N(0, I)``, not clipped to [0, 1]. Training uses the cross-entropy on one draw per
    image. ``advdef certify`` certifies a radius in l2 for each image. The default sigma does not depend on the data set's
    usual radius, which is in linf. The literature uses 0.25, 0.5 or 1 for all data sets.
    """

    paper: ClassVar[str] = (
        "Jeremy Cohen, Elan Rosenfeld, J. Zico Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML 2019, "
        "arXiv 1902.02918"
    )
    family: ClassVar[str] = "certified"

    sigma: float = Field(0.25, gt=0, description="standard deviation of the noise, in pixel values")
    decision: DecisionRule = Field("vote", description="decision rule; the paper's is the vote")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return _Smoothed(copy.deepcopy(model), self.sigma)

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="training")


class _Smoothed(NoiseLayer):
    """The noise of randomized smoothing in front of the base classifier."""


def base_classifier(model: nn.Module) -> nn.Module:
    """The base classifier of randomized smoothing: the model without the noise and the vote.

    Args:
        model: A model with any defense. If its last defense is not randomized smoothing, it is returned unchanged.
    """
    noisy = model.model if isinstance(model, Decision) else model
    return noisy.layer if isinstance(noisy, _Smoothed) else model
