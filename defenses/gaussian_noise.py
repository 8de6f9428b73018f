"""Gaussian noise before every convolution."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.attacks.base.model import EnumerableDraws, frozen
from robustbench_cli.defenses.base.noise import Noisy
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.training import Trainer

__all__ = ["GaussianNoise"]


class GaussianNoise(RandomizedDefense):
    """Gaussian noise before every convolution, in training and after (Random Self-Ensemble's noise layers).

    Each convolution's input h becomes ``h + sigma * N(0, I)``: ``sigma_init`` where h is the image, ``sigma_inner``
    where it comes from an earlier convolution. Trained with one draw a step. The paper predicts by the mean softmax of
    many draws, as ``rse`` does; here one draw decides unless told otherwise.
    """

    paper: ClassVar[str] = (
        "Xuanqing Liu, Minhao Cheng, Huan Zhang, Cho-Jui Hsieh, Towards Robust Neural Networks via Random Self-ensemble, "
        "ECCV 2018, arXiv 1712.00673"
    )
    trained: ClassVar[bool] = True

    sigma_init: float = Field(0.2, ge=0, description="standard deviation before the first convolution, in pixel values")
    sigma_inner: float = Field(0.1, ge=0, description="standard deviation before each later convolution")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        noisy = copy.deepcopy(model)
        first = _reads_the_image(noisy, example)
        if not first:
            raise UserError(f"gaussian-noise adds noise before convolutions, and {type(model).__name__} runs none")
        for name, module in list(noisy.named_modules(remove_duplicate=False)):
            if isinstance(module, _ConvNd):
                sigma = self.sigma_init if module in first else self.sigma_inner
                noisy.set_submodule(name, Noisy(module, sigma))
        return noisy

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="training")


def _reads_the_image(model: nn.Module, example: Tensor) -> set[nn.Module]:
    """The convolutions whose input comes from no other convolution."""
    first: set[nn.Module] = set()

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not inputs[0].requires_grad:
            first.add(module)

    convolutions = [module for module in model.modules() if isinstance(module, _ConvNd)]
    # Every path of a switching model, so that no channel is missed.
    forward: Callable[[Tensor], Tensor] = model.all_draws if isinstance(model, EnumerableDraws) else model
    with frozen(model), torch.enable_grad():
        hooks = [module.register_forward_pre_hook(look) for module in convolutions]
        for module in convolutions:
            module.requires_grad_(True)
        forward(example.detach())
        for hook in hooks:
            hook.remove()
    return first
