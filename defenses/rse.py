"""Random Self-Ensemble: noise before every convolution, and the mean softmax of several draws."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from robustbench_cli.defenses.base.decision_rules import DecisionRule
from robustbench_cli.defenses.gaussian_noise import GaussianNoise

__all__ = ["RSE"]


class RSE(GaussianNoise):
    """Random Self-Ensemble: Gaussian noise before every convolution, and the mean softmax of several draws decides.

    Training uses one draw a step: its mean loss is an upper bound of the ensemble's loss (Jensen's inequality). The
    default sigmas are the paper's for CIFAR-10 and STL-10. They do not depend on the data set's radius.
    """

    paper: ClassVar[str] = GaussianNoise.paper
    family: ClassVar[str] = "random-layers"

    sigma_init: float | None = Field(
        0.2, ge=0, description="standard deviation before the first convolution or at the input, in pixel values"
    )
    sigma_inner: float | None = Field(
        0.1,
        ge=0,
        description="standard deviation everywhere else: before later convolutions, at activations or logits, or of the weights "
        "relative to their own standard deviation",
    )
    decision: DecisionRule = Field("mean", description="decision rule; the paper's is the mean softmax")
