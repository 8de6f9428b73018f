"""The hyperparameters of a training."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from robustbench_cli.core.settings import Settings

__all__ = ["Recipe"]


class Recipe(Settings):
    """The hyperparameters of a training.

    The one-cycle schedule is a variant of the paper's: its rate falls along a cosine, the paper's along a line. In the
    running mean of the weights, step n has the weight ``1 - min(ema, (1 + n) / (10 + n))``. So the first steps soon lose
    their influence.
    """

    paper: ClassVar[str] = (
        "Leslie N. Smith, Nicholay Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning "
        "Rates, 2017, arXiv 1708.07120 (the one-cycle schedule, of which ours is a variant)"
    )

    epochs: int = Field(10, ge=1, description="number of passes through the training data")
    batch_size: int = Field(
        128, ge=1, description="largest number of images in a step; the batches of an epoch have nearly equal sizes"
    )
    optimizer: Literal["adam", "sgd"] = Field("adam", description="adam: AdamW; sgd: SGD with Nesterov momentum")
    lr: float = Field(4e-3, gt=0, description="maximum learning rate")
    momentum: float = Field(0.9, gt=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(
        0.01, ge=0, description="weight decay: decoupled for adam (AdamW), added to the gradient for sgd"
    )
    schedule: Literal["one-cycle", "constant", "cyclic", "cosine", "multistep"] = Field(
        "one-cycle",
        description="one-cycle: linear rise for a fifth of the steps, then cosine decay to 0; constant: always lr; cyclic: "
        "linear rise for two fifths of the steps, then linear decay; cosine: cosine decay; multistep: divided by 10 at each "
        "milestone",
    )
    milestones: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.5, 0.75), description="milestones of multistep, as fractions of all steps"
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="arithmetic of the layers; bf16 is faster if the hardware supports it"
    )
    ema: float = Field(
        0,
        ge=0,
        lt=1,
        description="decay of the running mean of the weights, such as 0.995; the mean becomes the final weights; 0: no mean",
    )
    held_out: float = Field(
        0,
        ge=0,
        le=0.5,
        description="fraction of the training data that is held out to select the best epoch by accuracy under PGD; 0: the "
        "last epoch's weights are used",
    )
    held_out_eps: float | None = Field(
        None,
        ge=0,
        le=1,
        description="radius in linf of that PGD; default: the radius of the defense's training, or 0 if it has none",
    )
    held_out_steps: int = Field(10, ge=1, description="number of steps of that PGD")

    @property
    def in_effect(self) -> dict[str, Any]:
        """The fields that have an effect, as JSON values.

        A feature that is off adds no field. So a new feature leaves the keys of cached checkpoints as they are.
        """
        values = self.model_dump(mode="json")
        unused = {
            "milestones": self.schedule != "multistep",
            "ema": self.ema == 0,
            **dict.fromkeys(("held_out", "held_out_eps", "held_out_steps"), self.held_out == 0),
        }
        return {name: value for name, value in values.items() if not unused.get(name, False)}

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step.

        Args:
            step: The number of the step, from 0.
            steps: The number of all steps.
        """
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "multistep":
            return self.lr * 0.1 ** sum(step >= milestone * steps for milestone in self.milestones)
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * step / steps)) / 2
        position, peak = (step + 1) / (steps + 1), 0.2
        if self.schedule == "cyclic":
            return self.lr * min(position / 0.4, (1 - position) / 0.6)
        if position < peak:
            return self.lr * position / peak
        return self.lr * (1 + math.cos(math.pi * (position - peak) / (1 - peak))) / 2

    def build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Builds the optimizer for ``parameters``."""
        if self.optimizer == "adam":
            return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, nesterov=True, weight_decay=self.weight_decay, fused=True
        )
