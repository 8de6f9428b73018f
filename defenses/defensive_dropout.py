"""Defensive dropout: dropout that stays on, at a rate chosen against an attack."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import StochasticLayer, uniform_like
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["DefensiveDropout"]

_RATES = tuple(tenths / 10 for tenths in range(10))
"""Among which the rate is chosen."""

_IMAGES = 256
"""Training images on which it is chosen."""

_PASSES = 4
"""Draws of each of them that measure the clean accuracy."""


class DefensiveDropout(RandomizedDefense):
    """Defensive dropout: dropout before fully connected layers stays on after training, at a rate of its own.

    It stands where the model has dropout, or before its last fully connected layer where it has none. The model is
    trained at one rate; then, of the rates 0, 0.1, ... 0.9, that one is chosen at which an attack succeeds least among
    those that lose no more clean accuracy than allowed. Here the attack is PGD with 10 steps that follow one draw each,
    and both are measured on 256 of the training images. The paper leaves the attack to the user.
    """

    paper: ClassVar[str] = (
        "Siyue Wang, Xiao Wang, Pu Zhao, Wujie Wen, David Kaeli, Peter Chin, Xue Lin, Defensive Dropout for Hardening Deep "
        "Neural Networks under Adversarial Attacks, ICCAD 2018, arXiv 1809.05165"
    )
    radius_multiples: ClassVar[Mapping[str, float]] = {"eps": 1}

    rate: float | None = Field(None, ge=0, lt=1, description="of the dropout after training; chosen where not given")
    train_rate: float | None = Field(
        None, ge=0, lt=1, description="of the dropout in training; the model's own where not given, 0 where it has none"
    )
    accuracy_drop: float = Field(0.01, ge=0, le=1, description="clean accuracy that the chosen rate may cost")
    eps: float | None = Field(
        None,
        gt=0,
        le=1,
        description="radius in linf of the attack against which the rate is chosen; the data set's usual one where not given, "
        "8/255 for CIFAR-10",
    )

    @property
    def radius(self) -> float:
        """Of the attack, in linf."""
        return self.resolved("eps")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        randomized = copy.deepcopy(model)
        places = {
            name: module
            for name, module in randomized.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Dropout) and module.p > 0
        }
        for name, module in places.items():
            own = module.p if self.train_rate is None else self.train_rate
            randomized.set_submodule(name, _Dropout(own, self.rate or 0))
        if not places:
            name, last = _last_linear(randomized, example)
            layers = [_Dropout(self.train_rate or 0, self.rate or 0), last]
            if not name:
                randomized = nn.Sequential(*layers)
            else:
                randomized.set_submodule(name, nn.Sequential(*layers))
        return randomized.train(model.training)

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="training")
        if self.rate is None:
            with trainer.seeded("rate") as seed:
                order = torch.randperm(len(trainer.examples))
                images, labels = (part.to(trainer.device) for part in trainer.examples.batch(order[:_IMAGES]))
                measured = [self._measure(model, rate, images, labels, seed) for rate in _RATES]
            _set_rate(model, _choose(measured, self.accuracy_drop))

    def _measure(self, model: nn.Module, rate: float, images: Tensor, labels: Tensor, seed: int) -> _Measured:
        _set_rate(model, rate)
        perturbed = PGD(steps=10)(model, images, labels, norm="linf", eps=self.radius, eot=1, seed=seed)
        with frozen(model), torch.no_grad():
            clean, attacked = (
                torch.stack([model(each).argmax(1) == labels for _ in range(_PASSES)]) for each in (images, perturbed)
            )
        # Draws of the clean image and of the perturbed one are independent: a success is a right one that is not kept.
        accuracy = clean.double().mean().item()
        kept = (clean.double().mean(0) * attacked.double().mean(0)).mean().item()
        return _Measured(rate, accuracy, 1 - kept / accuracy if accuracy else 0.0)


@dataclass(frozen=True)
class _Measured:
    """What a rate costs and gives: clean accuracy, and the share of what was right that the attack makes wrong."""

    rate: float
    accuracy: float
    success: float


def _choose(measured: Sequence[_Measured], drop: float) -> float:
    """The rate of the least success among those whose accuracy falls short of the first's by ``drop`` at most."""
    allowed = [each for each in measured if each.accuracy >= measured[0].accuracy - drop]
    return min(allowed, key=lambda each: each.success).rate


class _Dropout(StochasticLayer):
    """Dropout of single numbers, at one rate in training and another, kept with the weights, after it."""

    rate: Tensor

    def __init__(self, train_rate: float, rate: float) -> None:
        super().__init__()
        self.train_rate = train_rate
        self.register_buffer("rate", torch.tensor(rate, dtype=torch.float32))

    def forward(self, rows: Tensor) -> Tensor:
        if self.training:
            return functional.dropout(rows, self.train_rate)
        if not self.drawing:
            return rows
        return rows * ((uniform_like(rows) >= self.rate) / (1 - self.rate)).to(rows.dtype)

    def extra_repr(self) -> str:
        return f"train_rate={self.train_rate}"


def _set_rate(model: nn.Module, rate: float) -> None:
    for module in model.modules():
        if isinstance(module, _Dropout):
            module.rate.fill_(rate)


def _last_linear(model: nn.Module, example: Tensor) -> tuple[str, nn.Module]:
    """The fully connected layer that runs last, and its name."""
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    ran: list[nn.Module] = []
    hooks = [module.register_forward_hook(lambda module, *_: ran.append(module)) for module in names]
    with frozen(model), torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    if not ran:
        raise UserError(
            f"defensive-dropout stands before fully connected layers, and {type(model).__name__} runs none: "
            "give a model with one, or with dropout of its own"
        )
    return names[ran[-1]], ran[-1]
