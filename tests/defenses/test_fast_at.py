from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress
from robustbench_cli.defenses.fast_at import FastAT


def test_the_step_on_a_linear_model() -> None:
    """Every pixel moves by 1.25 eps against the margin, clipped to the ball; the loss is near that of the corner."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    recorded: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _, rows: recorded.append(rows[0].detach()))
    images, labels = 0.4 + 0.2 * torch.rand(200, 1, 4, 4), torch.randint(2, (200,))
    value = FastAT(eps=0.1).loss(model, images, labels)
    start, perturbed = recorded
    offset = (start - images) / 0.1
    # Uniform in the ball: mean 0 and variance 1/3 of 3200 numbers, whose fourth moment is 1/5.
    assert offset.abs().max() <= 1 + 1e-5
    assert offset.mean().abs() < 4 * (1 / 3 / 3200) ** 0.5
    assert (offset.square().mean() - 1 / 3).abs() < 4 * ((1 / 5 - 1 / 9) / 3200) ** 0.5
    weight = (model[1].weight[1] - model[1].weight[0]).view(1, 4, 4).sign()
    away = -(2 * labels - 1).view(-1, 1, 1, 1) * weight
    torch.testing.assert_close(perturbed, images + (start - images + 0.125 * away).clamp(-0.1, 0.1))
    torch.testing.assert_close(value, functional.cross_entropy(model(perturbed), labels))


def test_catastrophic_overfitting_stops_the_training(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """With a tiny overfitting_drop training stops early, with the weights of the epoch before."""
    train, _ = digits
    states: list[torch.Tensor] = []
    notes: list[str] = []
    model = FastAT().protect(normed(), train.images[:1])

    def look(progress: TrainingProgress) -> None:
        states.append(model[9].weight.detach().clone())  # type: ignore[index,union-attr,operator]
        notes.append(progress.note)

    trainer = Trainer(
        train, Recipe(epochs=60, lr=0.02, schedule="constant"), seed=0, device=torch.device("cpu"), progress=look
    )
    FastAT(eps=0.1, overfitting_drop=0.02).fit(model, trainer)
    record = trainer.record["trained"]["adversarial training"]
    assert record["collapsed_epoch"] == len(states) < 60
    assert record["collapsed_accuracy"] <= record["watched_accuracy"] - 0.02
    assert torch.equal(model[9].weight, states[-2])  # type: ignore[index]
    assert notes[-1].startswith(f"collapsed in epoch {len(states)} ")
