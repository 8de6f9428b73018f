"""Defensive dropout: dropout that stays on at test time, at a rate chosen against an attack."""

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
"""The candidate rates."""

_IMAGES = 256
"""The number of training images that select the rate."""

_PASSES = 4
"""The number of draws per image in that measurement."""


class DefensiveDropout(RandomizedDefense):
    """Defensive dropout: dropout before fully connected layers stays on at test time, at a rate of its own.

    It replaces the model's dropout layers, or precedes its last fully connected layer if it has none. The model is
    trained with the training dropout rate. Then the test rate is selected from 0, 0.1, ... 0.9: the one with the
    lowest attack success rate among those that lose at most ``accuracy_drop`` of clean accuracy. The attack is PGD
    with 10 steps, each on one draw, and both are measured on 256 training images. The paper leaves the attack to the
    user.
    """

    paper: ClassVar[str] = (
        "Siyue Wang, Xiao Wang, Pu Zhao, Wujie Wen, David Kaeli, Peter Chin, Xue Lin, Defensive Dropout for Hardening Deep "
        "Neural Networks under Adversarial Attacks, ICCAD 2018, arXiv 1809.05165"
    )
    family: ClassVar[str] = "random-layers"
    radius_multiples: ClassVar[Mapping[str, float]] = {"eps": 1}

    test_rate: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="dropout rate at test time; default: selected against an attack",
        json_schema_extra={"formerly": "rate"},
    )
    train_rate: float | None = Field(
        None, ge=0, lt=1, description="dropout rate in training; default: the model's own, 0 if it has no dropout"
    )
    accuracy_drop: float = Field(
        0.01, ge=0, le=1, description="largest loss of clean accuracy that the selected test rate may cause"
    )
    eps: float | None = Field(
        None,
        gt=0,
        le=1,
        description="radius in linf of the attack that selects the test rate; default: the data set's usual radius, 8/255 for "
        "CIFAR-10",
    )

    @property
    def radius(self) -> float:
        """The attack's radius in linf."""
        return self.resolved("eps")

    def randomize(self, model: nn.Module, example: Tensor) -> nn.Module:
        randomized = copy.deepcopy(model)
        dropouts = {
            name: module
            for name, module in randomized.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Dropout) and module.p > 0
        }
        for name, module in dropouts.items():
            train_rate = module.p if self.train_rate is None else self.train_rate
            randomized.set_submodule(name, _Dropout(train_rate, self.test_rate or 0))
        if not dropouts:
            name, last = _last_linear(randomized, example)
            layers = [_Dropout(self.train_rate or 0, self.test_rate or 0), last]
            if not name:
                randomized = nn.Sequential(*layers)
            else:
                randomized.set_submodule(name, nn.Sequential(*layers))
        return randomized.train(model.training)

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        trainer.fit(model, name="training")
        if self.test_rate is None:
            with trainer.seeded("rate") as seed:
                order = torch.randperm(len(trainer.examples))
                images, labels = (part.to(trainer.device) for part in trainer.examples.batch(order[:_IMAGES]))
                measurements = [
                    self._measure(model, rate, images, labels, seed)
                    for rate in trainer.steps(_RATES, name="choosing the test rate")
                ]
            _set_rate(model, _choose(measurements, self.accuracy_drop))

    def _measure(self, model: nn.Module, rate: float, images: Tensor, labels: Tensor, seed: int) -> _Measurement:
        """Measures clean accuracy and attack success at a test rate."""
        _set_rate(model, rate)
        perturbed = PGD(steps=10)(model, images, labels, norm="linf", eps=self.radius, eot=1, seed=seed)
        with frozen(model), torch.no_grad():
            clean, attacked = (
                torch.stack([model(rows).argmax(1) == labels for _ in range(_PASSES)]) for rows in (images, perturbed)
            )
        # The draws on clean and on perturbed images are independent, so the probability that both are right is a product.
        accuracy = clean.double().mean().item()
        unbroken = (clean.double().mean(0) * attacked.double().mean(0)).mean().item()
        return _Measurement(rate, accuracy, 1 - unbroken / accuracy if accuracy else 0.0)


@dataclass(frozen=True)
class _Measurement:
    """The clean accuracy and the attack success rate at a test rate."""

    rate: float
    accuracy: float
    success: float


def _choose(measurements: Sequence[_Measurement], drop: float) -> float:
    """The rate with the lowest success rate among those that lose at most ``drop`` of the first one's accuracy."""
    allowed = [candidate for candidate in measurements if candidate.accuracy >= measurements[0].accuracy - drop]
    return min(allowed, key=lambda candidate: candidate.success).rate


class _Dropout(StochasticLayer):
    """Elementwise dropout, at one rate in training and another at test time. The latter is stored with the weights."""

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
    """Sets the test rate of all dropout layers."""
    for module in model.modules():
        if isinstance(module, _Dropout):
            module.rate.fill_(rate)


def _last_linear(model: nn.Module, example: Tensor) -> tuple[str, nn.Module]:
    """The name of the fully connected layer that runs last, and the layer."""
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    calls: list[nn.Module] = []
    hooks = [module.register_forward_hook(lambda module, *_: calls.append(module)) for module in names]
    with frozen(model), torch.no_grad():
        model(example)
    for hook in hooks:
        hook.remove()
    if not calls:
        raise UserError(
            f"defensive-dropout precedes fully connected layers, and {type(model).__name__} runs none: "
            "give a model with one, or with dropout"
        )
    return names[calls[-1]], calls[-1]
