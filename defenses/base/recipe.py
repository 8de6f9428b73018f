"""How long and how a network is trained."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from robustbench_cli.attacks.base.method import Method

__all__ = ["Recipe"]


class Recipe(Method):
    """How long and how a network is trained.

    The one-cycle schedule is a variant of the paper's, whose rate falls along a line as it rose.
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
    schedule: Literal["one-cycle", "constant"] = Field(
        "one-cycle", description="up in a line for a fifth of the steps and down along a cosine to 0, or always lr"
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="of the layers' arithmetic; bf16 is faster where the processor has it"
    )

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step ``step`` (0-based) of ``steps``."""
        if self.schedule == "constant":
            return self.lr
        share, rising = (step + 1) / (steps + 1), 0.2
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
