"""Sparta: a spatially attentive activation, trained adversarially."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from robustbench_cli.attacks.base.parameters.surrogate import Surrogate
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.activations import ReplacedReLUs, channels_of_relus
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.pgd_at import PGDAT

__all__ = ["Sparta"]


class Sparta(PGDAT):
    """Sparta: every ReLU on feature maps becomes a gate that sees the neighborhood of each pixel; the training is that of pgd-at.

    ReLU is ``x 1[x > 0]``: the same gate everywhere, which depends on x alone. Sparta is ``x A(x)``, where A in (0, 1) depends
    on the pixels around x. In the style of the abstract, because the paper's text was not at hand: A is the sigmoid of a depthwise
    convolution, with a bias. At first only its center has a weight, 3, so the activation starts as ``x sigmoid(3 x)``. With
    ``kernel=1`` it is Swish with a learned slope for each channel. Behind fully connected layers ReLU stays.

    The paper also fixes the gates that one network has learned, and trains another network, or one for other data, with them:
    see ``gates``. An activation takes a gate with as many channels. If several have, those of both networks are matched by
    their relative position.
    """

    paper: ClassVar[str] = (
        "Qing Guo, Felix Juefei-Xu, Changqing Zhou, Wei Feng, Yang Liu, Song Wang, Sparta: Spatially Attentive and Adversarially "
        "Robust Activation, 2021, arXiv 2105.08269"
    )
    family: ClassVar[str] = "adversarial-training"

    kernel: int = Field(3, ge=1, le=15, description="side of the neighborhood, an odd number")
    gates: Surrogate | None = Field(
        None,
        repr=False,
        description="checkpoint of a model with sparta, whose gates are taken and stay as they are; default: they are learned",
    )

    @field_validator("kernel")
    @classmethod
    def _has_a_center(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"give an odd number, not {kernel}")
        return kernel

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        channels = channels_of_relus(model, example)
        if not channels:
            raise UserError(
                f"sparta replaces ReLU behind convolutions, and {type(model).__name__} has none: give another network"
            )
        gates = [Gate(count, self.kernel) for count in channels]
        if isinstance(self.gates, nn.Module):
            for gate, learned in zip(gates, _matching(channels, _gates_of(self.gates)), strict=True):
                gate.take(learned)
        protected = ReplacedReLUs(copy.deepcopy(model), gates)
        return protected.to(example.device)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        if self.gates is not None and not isinstance(self.gates, nn.Module):
            raise UserError(f"gates is the file {self.gates}: give its model, load_checkpoint(path).model")
        super().fit(model, trainer)


class Gate(nn.Module):
    """The activation ``x sigmoid(c(x))`` of feature maps ``(N, C, H, W)``, with a depthwise convolution c.

    Args:
        channels: C.
        kernel: The side of c's kernels, an odd number.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        with torch.no_grad():
            self.convolution.weight.zero_()
            self.convolution.weight[:, :, kernel // 2, kernel // 2] = 3
            nn.init.zeros_(self.convolution.get_parameter("bias"))

    def forward(self, features: Tensor) -> Tensor:
        """The activations, of the same shape."""
        scores: Tensor = self.convolution(features)
        return features * scores.sigmoid()

    def take(self, learned: Gate) -> None:
        """Takes the weights of another gate, and keeps them in training.

        Args:
            learned: Has as many channels.

        Raises:
            UserError: Its kernels have another size.
        """
        (size, _), (own, _) = learned.convolution.kernel_size, self.convolution.kernel_size
        if size != own:
            raise UserError(f"sparta.gates has kernels of {size} x {size}: give sparta.kernel={size}")
        self.load_state_dict(learned.state_dict())
        self.requires_grad_(False)


def _gates_of(model: nn.Module) -> list[Gate]:
    """The gates of a model, in the order of its activations."""
    gates = [gate for gate in model.modules() if isinstance(gate, Gate)]
    if not gates:
        raise UserError("sparta.gates is a model without sparta: give a checkpoint of 'advdef train --defense sparta'")
    return gates


def _matching(channels: Sequence[int], gates: Sequence[Gate]) -> list[Gate]:
    """For each activation, a gate with as many channels, at the same relative position among those."""
    matching = []
    for index, count in enumerate(channels):
        fitting = [gate for gate in gates if gate.convolution.in_channels == count]
        if not fitting:
            known = ", ".join(map(str, dict.fromkeys(gate.convolution.in_channels for gate in gates)))
            raise UserError(f"sparta.gates has no gate for {count} channels: it has them for {known}")
        position, others = channels[:index].count(count), channels.count(count) - 1
        matching.append(fitting[round(position * (len(fitting) - 1) / others) if others else 0])
    return matching
