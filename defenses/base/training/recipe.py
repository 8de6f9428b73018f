"""How long and how a network is trained."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from robustbench_cli.core.settings import Settings

__all__ = ["Recipe"]


class Recipe(Settings):
    """How long and how a network is trained.

    The one-cycle schedule is a variant of the paper's, whose rate falls along a line as it rose. Of the running mean of
    the weights, step n has the weight ``1 - min(ema, (1 + n) / (10 + n))``, so that the first steps are soon forgotten.
    """

    paper: ClassVar[str] = (
        "Leslie N. Smith, Nicholay Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning "
        "Rates, 2017, arXiv 1708.07120 (the one-cycle schedule, of which ours is a variant)"
    )

    epochs: int = Field(10, ge=1, description="passes through the training data")
    batch_size: int = Field(128, ge=1, description="most images in a step; an epoch's batches are of nearly equal size")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="AdamW, or SGD with Nesterov's momentum")
    lr: float = Field(4e-3, gt=0, description="learning rate, at its highest")
    momentum: float = Field(0.9, gt=0, lt=1, description="of sgd")
    weight_decay: float = Field(
        0.01, ge=0, description="of adam decoupled from the gradient (AdamW), of sgd added to it"
    )
    schedule: Literal["one-cycle", "constant", "cyclic", "cosine", "multistep"] = Field(
        "one-cycle",
        description="up in a line for a fifth of the steps and down along a cosine to 0; always lr; up and down in lines, "
        "highest at two fifths; down along a cosine; or a tenth of the rate from each of the milestones on",
    )
    milestones: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.5, 0.75), description="of multistep, as shares of all steps"
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="of the layers' arithmetic; bf16 is faster where the processor has it"
    )
    ema: float = Field(
        0,
        ge=0,
        lt=1,
        description="decay of the running mean of the weights, such as 0.995, which then takes their place; 0: none",
    )
    held_out: float = Field(
        0,
        ge=0,
        le=0.5,
        description="share of the training data that is kept back to choose the epoch whose weights stay, by accuracy "
        "under PGD; 0: the last epoch's stay",
    )
    held_out_eps: float | None = Field(
        None,
        ge=0,
        le=1,
        description="radius in linf of that PGD; where not given, the one that the defense trains with, or 0 if it has none",
    )
    held_out_steps: int = Field(10, ge=1, description="steps of that PGD")

    @property
    def in_effect(self) -> dict[str, Any]:
        """The fields as JSON values, without those of a feature that is not used: a new one makes no other recipe."""
        values = self.model_dump(mode="json")
        unused = {
            "milestones": self.schedule != "multistep",
            "ema": self.ema == 0,
            **dict.fromkeys(("held_out", "held_out_eps", "held_out_steps"), self.held_out == 0),
        }
        return {name: value for name, value in values.items() if not unused.get(name, False)}

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step ``step`` (0-based) of ``steps``."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "multistep":
            return self.lr * 0.1 ** sum(step >= milestone * steps for milestone in self.milestones)
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * step / steps)) / 2
        share, rising = (step + 1) / (steps + 1), 0.2
        if self.schedule == "cyclic":
            return self.lr * min(share / 0.4, (1 - share) / 0.6)
        if share < rising:
            return self.lr * share / rising
        return self.lr * (1 + math.cos(math.pi * (share - rising) / (1 - rising))) / 2

    def build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over ``parameters``."""
        if self.optimizer == "adam":
            return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, nesterov=True, weight_decay=self.weight_decay, fused=True
        )
