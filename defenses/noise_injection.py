"""Gaussian noise on the image, in front of an unchanged model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import NoiseLayer

__all__ = ["NoiseInjection"]


class NoiseInjection(RandomizedDefense):
    """Gaussian noise on the image, in front of a model that was not trained for it; no training.

    The model's input is ``x + sigma * N(0, I)``, not clipped to [0, 1]. The paper shows that such preprocessing protects
    less, the more invariant the model is to it.
    """

    paper: ClassVar[str] = (
        "Yue Gao, Ilia Shumailov, Kassem Fawaz, Nicolas Papernot, On the Limitations of Stochastic Pre-processing Defenses, "
        "NeurIPS 2022, arXiv 2206.09491"
    )
    family: ClassVar[str] = "random-input"

    radius_multiples: ClassVar[Mapping[str, float]] = {"sigma": 1}

    sigma: float | None = Field(
        None,
        ge=0,
        description="standard deviation of the noise, in pixel values; default: the data set's usual radius, 8/255 for CIFAR-10",
    )

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return NoiseLayer(copy.deepcopy(model), self.resolved("sigma"))
