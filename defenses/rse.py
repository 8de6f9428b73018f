"""Random Self-Ensemble: noise before every convolution, and the mean of several draws."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from robustbench_cli.defenses.base.randomized import DecisionRule
from robustbench_cli.defenses.gaussian_noise import GaussianNoise

__all__ = ["RSE"]


class RSE(GaussianNoise):
    """Random Self-Ensemble: Gaussian noise before every convolution, and the mean softmax of several draws decides.

    Trained with one draw a step, whose mean loss bounds that of the ensemble from above (Jensen's inequality).
    """

    paper: ClassVar[str] = GaussianNoise.paper

    decision: DecisionRule = Field("mean", description="what decides; the paper's rule is the mean softmax")
