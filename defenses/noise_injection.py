"""Gaussian noise on the image, before a model that is left as it is."""

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
    """Gaussian noise on the image, before a model that was not trained for it.

    The model sees ``x + sigma * N(0, I)``, which is not cut to [0, 1]. The paper finds that such a preprocessing
    protects the less, the better the model gets along with it.
    """

    paper: ClassVar[str] = (
        "Yue Gao, Ilia Shumailov, Kassem Fawaz, Nicolas Papernot, On the Limitations of Stochastic Pre-processing Defenses, "
        "NeurIPS 2022, arXiv 2206.09491"
    )

    radius_multiples: ClassVar[Mapping[str, float]] = {"sigma": 1}

    sigma: float | None = Field(
        None,
        ge=0,
        description="standard deviation of the noise, in pixel values; the data set's usual radius where not given, 8/255 for "
        "CIFAR-10",
    )

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        return NoiseLayer(copy.deepcopy(model), self.resolved("sigma"))
