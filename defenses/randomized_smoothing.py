"""Randomized smoothing: a model trained with Gaussian noise on its images, and the vote of several noisy draws."""

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
    """Randomized smoothing: the vote of several draws of a model that was trained with Gaussian noise on its images.

    The model sees ``x + sigma * N(0, I)``, which is not cut to [0, 1], and is trained by the cross-entropy on one draw
    an image. What no attack in l2 can change is certified by ``advdef certify``. The noise does not follow from the data
    set's usual radius, which is one in linf: the literature takes 0.25, 0.5 or 1 for all data sets.
    """

    paper: ClassVar[str] = (
        "Jeremy Cohen, Elan Rosenfeld, J. Zico Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML 2019, "
        "arXiv 1902.02918"
    )

    sigma: float = Field(0.25, gt=0, description="standard deviation of the noise, in pixel values")
    decision: DecisionRule = Field("vote", description="what decides; the paper's rule is the vote")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return _Smoothed(copy.deepcopy(model), self.sigma)

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="training")


class _Smoothed(NoiseLayer):
    """The noise of randomized smoothing, before the classifier that is smoothed."""


def base_classifier(model: nn.Module) -> nn.Module:
    """The classifier that is smoothed: a model without the noise and the vote of randomized smoothing around it.

    Args:
        model: Of any defense; it is given back where its last one is not randomized smoothing.
    """
    drawn = model.model if isinstance(model, Decision) else model
    return drawn.layer if isinstance(drawn, _Smoothed) else model
