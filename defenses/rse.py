"""Random Self-Ensemble: noise before every convolution, and the mean of several draws."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from robustbench_cli.defenses.base.decision_rules import DecisionRule
from robustbench_cli.defenses.gaussian_noise import GaussianNoise

__all__ = ["RSE"]


class RSE(GaussianNoise):
    """Random Self-Ensemble: Gaussian noise before every convolution, and the mean softmax of several draws decides.

    Trained with one draw a step, whose mean loss bounds that of the ensemble from above (Jensen's inequality). The
    sigmas are the paper's, which has them for CIFAR-10 and STL-10; they do not follow from the data set's radius.
    """

    paper: ClassVar[str] = GaussianNoise.paper

    sigma_init: float | None = Field(
        0.2, ge=0, description="standard deviation before the first convolution or at the input, in pixel values"
    )
    sigma_inner: float | None = Field(
        0.1,
        ge=0,
        description="standard deviation everywhere else: before each later convolution, of activations, of logits, or of "
        "weights, as a share of that of a layer's own",
    )
    decision: DecisionRule = Field("mean", description="what decides; the paper's rule is the mean softmax")
