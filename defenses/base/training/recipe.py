"""The hyperparameters of a training."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings
from robustbench_cli.defenses.base.training.augmentations.base.augmentation import (
    describe_augmentations,
    read_augmentations,
)
from robustbench_cli.defenses.base.training.decayed import split_by_decay

__all__ = ["Recipe"]

_SHARE_OF_EXTRA = 0.7
"""The fraction of each batch that comes from the extra images, by default."""


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

    recipe: str = Field(
        "default", description="named recipe, whose values hold where none is given; see 'advdef list recipes'"
    )
    epochs: int = Field(10, ge=1, description="number of passes through the training data")
    epoch_fraction: float = Field(
        1,
        gt=0,
        le=1,
        description="fraction of the training images that an epoch takes, drawn anew for each; a budget sets it, to be spent whole",
    )
    batch_size: int = Field(
        128, ge=1, description="largest number of images in a step; the batches of an epoch have nearly equal sizes"
    )
    optimizer: Literal["adam", "sgd"] = Field("adam", description="adam: AdamW; sgd: SGD with momentum")
    lr: float = Field(4e-3, gt=0, description="maximum learning rate")
    momentum: float = Field(0.9, gt=0, lt=1, description="momentum of sgd")
    nesterov: bool = Field(True, description="whether the momentum of sgd is Nesterov's")
    weight_decay: float = Field(
        0.01, ge=0, description="weight decay: decoupled for adam (AdamW), added to the gradient for sgd"
    )
    decayed: Literal["all", "weights-and-biases", "weights"] = Field(
        "all",
        description="the parameters that decay: all; weights-and-biases: those of all layers except norms; weights: the "
        "weights of convolutions and fully connected layers",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="largest l2 norm of the gradient of all parameters together; a longer one is scaled to it",
    )
    label_smoothing: float = Field(
        0,
        ge=0,
        lt=1,
        description="share of the label's probability that is spread evenly over all classes, in the loss of the weights; the "
        "attack in training takes the label itself",
    )
    schedule: Literal["one-cycle", "constant", "cyclic", "linear", "cosine", "multistep", "torch-one-cycle"] = Field(
        "one-cycle",
        description="one-cycle: linear rise for a fifth of the steps, then cosine decay to 0; constant: always lr; cyclic: "
        "linear rise for two fifths of the steps, then linear decay; linear: linear decay to 0; cosine: cosine decay to 0; "
        "multistep: divided by 10 at each milestone; torch-one-cycle: torch's OneCycleLR, which rises from lr/25 during the "
        "warm-up, falls to lr/250,000 along cosines, and moves the momentum of sgd against it by 0.05 to both sides",
    )
    milestones: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.5, 0.75), description="milestones of multistep, as fractions of all steps"
    )
    warmup: float = Field(
        0,
        ge=0,
        lt=1,
        description="fraction of the steps in which the learning rate rises linearly from 0, before the decay of the schedule "
        "begins; one-cycle and cyclic have a rise of their own",
    )
    schedule_position: Literal["step", "next-step", "epoch"] = Field(
        "step",
        description="the position in the schedule: step: the number of finished steps; next-step: this one included; epoch: "
        "the number of finished epochs, so the rate changes only between epochs",
    )
    augmentations: Annotated[tuple[dict[str, Any], ...] | None, BeforeValidator(read_augmentations)] = Field(
        None,
        description="augmentations of the training images, in order, such as crop,flip; see 'advdef list augmentations'; none: no "
        "augmentation; default: the data set's usual ones",
    )
    extra: str | None = Field(
        None,
        description="data set of extra training images, such as npz:generated.npz: its training images, or all if it has no others",
    )
    extra_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="fraction of each batch that extra takes; an epoch has as many images as without it; default: 0.7, as for "
        "generated images in Rebuffi et al. 2021 (arXiv 2103.01946) and Wang et al. 2023 (arXiv 2302.04638); 0.5 in Carmon et "
        "al. 2019 (arXiv 1905.13736)",
    )
    pseudo_labels: str | None = Field(
        None,
        description="checkpoint whose predictions are the labels of extra, instead of its own (Carmon et al. 2019)",
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="arithmetic of the layers; bf16 is faster if the hardware supports it, and the weights stay float32",
    )
    ema: float = Field(
        0,
        ge=0,
        lt=1,
        description="decay of the running mean of the weights, such as 0.995; the mean becomes the final weights; 0: no mean",
    )
    swa_start: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="fraction of the epochs from which on the weights after each epoch are averaged equally (SWA); the average "
        "becomes the final weights, with new batch statistics",
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
        description="radius in linf of that PGD; default: norm and radius of the defense's training, or 0 if it has none",
    )
    held_out_steps: int = Field(10, ge=1, description="number of steps of that PGD")

    @model_validator(mode="after")
    def _one_rise(self) -> Self:
        if self.warmup and self.schedule in {"one-cycle", "cyclic"}:
            raise ValueError(f"{self.schedule} has a rise of its own: leave warmup out, or give another schedule")
        return self

    @model_validator(mode="after")
    def _one_average(self) -> Self:
        if self.ema and self.swa_start is not None:
            raise ValueError("ema and swa_start are two averages: give one of them")
        return self

    @model_validator(mode="after")
    def _images_are_held_out(self) -> Self:
        if self.held_out_eps is not None and not self.held_out:
            raise ValueError("held_out_eps is for held-out images: give held_out too, or leave it out")
        return self

    @model_validator(mode="after")
    def _extra_is_given(self) -> Self:
        for name in ("extra_fraction", "pseudo_labels"):
            if self.extra is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is for extra training images: give extra too, or leave it out")
        return self

    def require_effect(self, given: Collection[str], *, name: str) -> None:
        """Checks that the values that a user gave have an effect; those of a named recipe need none.

        Args:
            given: The names of the values that the user gave.
            name: How the user called the recipe, for the message.

        Raises:
            UserError: A value has no effect.
        """
        for key, has_effect, needed in (
            ("momentum", self.optimizer == "sgd", "optimizer=sgd"),
            ("nesterov", self.optimizer == "sgd", "optimizer=sgd"),
            ("milestones", self.schedule == "multistep", "schedule=multistep"),
            ("held_out_steps", self.held_out > 0, "held_out"),
        ):
            if key in given and not has_effect:
                raise UserError(f"{name}: {key} has no effect without {needed}: give {needed} too, or leave {key} out")

    @property
    def share_of_extra(self) -> float:
        """The fraction of each batch that comes from the extra images; 0 if there are none."""
        return 0 if self.extra is None else self.extra_fraction or _SHARE_OF_EXTRA

    @property
    def in_effect(self) -> dict[str, Any]:
        """The fields that have an effect, as JSON values.

        A feature that is off adds no field. So a new feature leaves the keys of cached checkpoints as they are.
        """
        values = self.model_dump(mode="json")
        values["extra_fraction"] = self.share_of_extra
        values["augmentations"] = describe_augmentations(self.augmentations or ())
        left_out_by_default = (
            "recipe",
            "epoch_fraction",
            "nesterov",
            "decayed",
            "clip_norm",
            "label_smoothing",
            "warmup",
            "schedule_position",
        )
        unused = {
            **{name: values[name] == type(self).model_fields[name].default for name in left_out_by_default},
            "milestones": self.schedule != "multistep",
            "augmentations": not self.augmentations,
            # The images and the labels count, not the names of their files.
            **dict.fromkeys(("extra", "pseudo_labels"), True),
            "extra_fraction": self.extra is None,
            "ema": self.ema == 0,
            "swa_start": self.swa_start is None,
            **dict.fromkeys(("held_out", "held_out_eps", "held_out_steps"), self.held_out == 0),
        }
        return {name: value for name, value in values.items() if not unused.get(name, False)}

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step.

        Args:
            step: The number of the step, from 0.
            steps: The number of all steps.
        """
        position, total = self._position(step, steps)
        if self.schedule == "torch-one-cycle":
            return self._between(self.lr / 25, self.lr, self.lr / 250_000, position, total)
        if self.schedule in {"one-cycle", "cyclic"}:
            return self.lr * self._cycle((position + 1) / (total + 1))
        rise = self.warmup * total
        if position < rise:
            return self.lr * position / rise
        done = (position - rise) / (total - rise)
        if self.schedule == "multistep":
            # Without the tolerance, 3 / 7 of 70 steps would be a little more than 30.
            return self.lr * 0.1 ** sum(position >= milestone * total - 1e-6 for milestone in self.milestones)
        return (
            self.lr * {"constant": 1, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.schedule]
        )

    def optimizer_values(self, step: int, steps: int) -> dict[str, float]:
        """The values of the optimizer that change from step to step: the learning rate, and the momentum if it changes.

        Args:
            step: The number of the step, from 0.
            steps: The number of all steps.
        """
        values = {"lr": self.rate(step, steps)}
        if self.schedule == "torch-one-cycle" and self.optimizer == "sgd":
            low, high = self.momentum - 0.05, min(self.momentum + 0.05, 1.0)
            values["momentum"] = self._between(high, low, high, *self._position(step, steps))
        return values

    def _position(self, step: int, steps: int) -> tuple[int, int]:
        """The position of a step in the schedule, and the number of positions."""
        if self.schedule_position == "epoch":
            return step * self.epochs // steps, self.epochs
        return step + (self.schedule_position == "next-step"), steps

    def _between(self, start: float, peak: float, end: float, position: int, total: int) -> float:
        """A value of torch's OneCycleLR, which goes along a cosine from ``start`` to ``peak``, then to ``end``."""
        turn, last = self.warmup * total - 1, total - 1
        if position <= turn:
            before, after, done = start, peak, position / turn if turn else 1.0
        else:
            before, after, done = peak, end, (position - turn) / (last - turn)
        return after + (before - after) * (1 + math.cos(math.pi * done)) / 2

    def _cycle(self, position: float) -> float:
        """The share of the maximum of a schedule that rises from 0 and falls to 0, for a position in (0, 1)."""
        if self.schedule == "cyclic":
            return min(position / 0.4, (1 - position) / 0.6)
        peak = 0.2
        if position < peak:
            return position / peak
        return (1 + math.cos(math.pi * (position - peak) / (1 - peak))) / 2

    def build_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Builds the optimizer for those parameters of a network that require a gradient.

        Args:
            network: The network.
        """
        decayed, others = split_by_decay(network, self.decayed)
        groups: list[dict[str, Any]] = [{"params": decayed}]
        if others:
            groups.append({"params": others, "weight_decay": 0.0})
        if self.optimizer == "adam":
            return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,
        )
