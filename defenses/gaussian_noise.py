"""Gaussian noise before every convolution, or at another location in a model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from robustbench_cli.attacks.base.models.enumerable_draws import EnumerableDraws
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import NoiseLayer
from robustbench_cli.defenses.base.surgery.activations import AfterActivations
from robustbench_cli.defenses.base.surgery.random_weights import (
    RandomWeights,
    shared_draws,
    weight_std,
    with_random_weights,
)
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["GaussianNoise"]


class GaussianNoise(RandomizedDefense):
    """Gaussian noise before every convolution, in training and at test time (the noise layers of Random Self-Ensemble).

    Each convolution's input h becomes ``h + sigma * N(0, I)``. Sigma is ``sigma_init`` if h is the image, and
    ``sigma_inner`` if h comes from an earlier convolution. Training uses one draw a step. The paper predicts by the mean
    softmax of many draws, as ``rse`` does. Here the default rule is one draw.

    The default sigmas depend on the data set's usual radius as in the comparison of Wang et al. (IJCAI 2019, arXiv
    1908.07116): two thirds and one third of it, which is 0.2 and 0.1 for MNIST, 0.02 and 0.01 for CIFAR-10.

    The other locations are: the image alone; the output of every activation function; the weights of every fully connected
    layer and convolution, with one draw per batch in training and one per row at test time; and the logits.
    """

    paper: ClassVar[str] = (
        "Xuanqing Liu, Minhao Cheng, Huan Zhang, Cho-Jui Hsieh, Towards Robust Neural Networks via Random Self-ensemble, "
        "ECCV 2018, arXiv 1712.00673"
    )
    family: ClassVar[str] = "random-layers"

    location: Literal["convolutions", "input", "activations", "weights", "output"] = Field(
        "convolutions", description="location of the noise", json_schema_extra={"formerly": "place"}
    )
    sigma_init: float | None = Field(
        None,
        ge=0,
        description="standard deviation before the first convolution or at the input, in pixel values; default: two thirds of "
        "the data set's usual radius",
    )
    sigma_inner: float | None = Field(
        None,
        ge=0,
        description="standard deviation everywhere else: before later convolutions, at activations or logits, or of the weights "
        "relative to their own standard deviation; default: a third of the data set's usual radius before convolutions, 0.1 at "
        "other locations",
    )

    def radius_defaults(self, radius: float) -> dict[str, float]:
        # Only before convolutions the noise has the scale of the pixels.
        return {"sigma_init": 2 / 3 * radius, "sigma_inner": radius / 3 if self.location == "convolutions" else 0.1}

    @property
    def sigma_of_images(self) -> float:
        """The standard deviation of the noise on the image, in pixel values."""
        return self.resolved("sigma_init") if self.location in ("convolutions", "input") else 0.0

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        sigma = self.resolved("sigma_inner")
        match self.location:
            case "convolutions":
                return self._before_convolutions(model, example)
            case "input":
                return NoiseLayer(copy.deepcopy(model), self.sigma_of_images)
            case "activations":
                return AfterActivations(copy.deepcopy(model), NoiseLayer(nn.Identity(), sigma))
            case "weights":
                return with_random_weights(model, partial(_Layer, relative_sigma=sigma), name="gaussian-noise")
            case "output":
                return _NoisyLogits(copy.deepcopy(model), sigma)

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        with shared_draws(model):
            trainer.fit(model, name="training")

    def _before_convolutions(self, model: nn.Module, example: Tensor) -> nn.Module:
        """A copy of the model with noise before every convolution."""
        noisy = copy.deepcopy(model)
        first = _first_convolutions(noisy, example)
        if not first:
            raise UserError(f"gaussian-noise adds noise before convolutions, and {type(model).__name__} runs none")
        for name, module in list(noisy.named_modules(remove_duplicate=False)):
            if isinstance(module, _ConvNd):
                sigma = self.resolved("sigma_init" if module in first else "sigma_inner")
                noisy.set_submodule(name, NoiseLayer(module, sigma))
        return noisy


class _NoisyLogits(nn.Module):
    """A model with noise on its logits."""

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        self.model = model
        self.noise = NoiseLayer(nn.Identity(), sigma)

    @property
    def unwrapped_model(self) -> nn.Module:
        """See :class:`~robustbench_cli.attacks.base.models.unwrap.Wrapper`."""
        return self.model

    def forward(self, images: Tensor) -> Tensor:
        """Noisy logits ``(N, K)`` of images ``(N, C, H, W)``."""
        logits: Tensor = self.noise(self.model(images))
        return logits


class _Layer(RandomWeights):
    """A layer with noise on its weights, whose sigma is a multiple of their standard deviation."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, *, relative_sigma: float) -> None:
        super().__init__(layer)
        self.relative_sigma = relative_sigma

    def sigma(self) -> Tensor:
        return self.relative_sigma * weight_std(self.layer.weight)

    def extra_repr(self) -> str:
        return f"relative_sigma={self.relative_sigma}"


def _first_convolutions(model: nn.Module, example: Tensor) -> set[nn.Module]:
    """The convolutions whose input does not depend on another convolution."""
    first: set[nn.Module] = set()

    def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        # Only the convolutions require a gradient, so an input that requires one depends on a convolution.
        if not inputs[0].requires_grad:
            first.add(module)

    convolutions = [module for module in model.modules() if isinstance(module, _ConvNd)]
    # A switching model runs all its paths, so no channel is missed.
    forward: Callable[[Tensor], Tensor] = model.all_draws if isinstance(model, EnumerableDraws) else model
    with frozen(model), torch.enable_grad():
        hooks = [module.register_forward_pre_hook(record) for module in convolutions]
        for module in convolutions:
            module.requires_grad_(True)
        forward(example.detach())
        for hook in hooks:
            hook.remove()
    return first
