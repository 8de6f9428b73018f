from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe


def test_one_cycle() -> None:
    """The rate rises to lr in a fifth of the steps, falls to nearly 0, and never exceeds lr."""
    recipe = Recipe(lr=2.0)
    rates = [recipe.rate(step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(2, rel=1e-4)
    assert 195 <= rates.index(max(rates)) <= 205
    assert 0 < rates[0] < 0.02
    assert 0 < rates[-1] < 1e-4
    assert all(Recipe(lr=2.0, schedule="constant").rate(step, 10) == 2 for step in range(10))


def test_unknown_fields_and_values() -> None:
    """A misspelled field and a value out of range are usage errors that name the field."""
    with pytest.raises(UserError, match=r"train has no parameter 'epoch': did you mean 'epochs'\?"):
        Recipe.from_parameters({"epoch": 3}, name="train")
    with pytest.raises(UserError, match=r"train.epochs is 0: "):
        Recipe.from_parameters({"epochs": 0}, name="train")


def test_schedules() -> None:
    """The rates equal those of torch's schedulers. The cyclic rate equals numpy's linear interpolation."""
    steps = 40
    parameter = [nn.Parameter(torch.zeros(()))]
    schedulers = {
        "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        "multistep": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 30]),
    }
    for schedule, build in schedulers.items():
        recipe = Recipe.from_parameters({"schedule": schedule, "lr": 0.5}, name="train")
        optimizer = torch.optim.SGD(parameter, lr=0.5)
        scheduler = build(optimizer)
        for step in range(steps):
            assert recipe.rate(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
            optimizer.step()
            scheduler.step()
    cyclic = Recipe(schedule="cyclic", lr=0.5)
    expected = np.interp((np.arange(steps) + 1) / (steps + 1), [0, 0.4, 1], [0, 0.5, 0])
    assert [cyclic.rate(step, steps) for step in range(steps)] == pytest.approx(list(expected))


def test_fields_in_effect() -> None:
    """The fields of a feature that is off have no effect, those of a feature that is on have."""
    plain = Recipe().in_effect
    assert Recipe(held_out_steps=3, milestones=(0.1,)).in_effect == plain
    assert not {"ema", "held_out", "held_out_eps", "held_out_steps", "milestones"} & set(plain)
    assert Recipe(held_out=0.1, held_out_steps=3).in_effect["held_out_steps"] == 3
    assert Recipe(ema=0.5, schedule="multistep").in_effect.keys() - plain.keys() == {"ema", "milestones"}


def test_values_out_of_range() -> None:
    """Values out of range are usage errors that name the field."""
    for key, value in {"ema": 1, "held_out": 0.9, "held_out_eps": 2, "milestones": [2]}.items():
        with pytest.raises(UserError, match=rf"train.{key}(.0)? is {value if key != 'milestones' else 2}: "):
            Recipe.from_parameters({key: value}, name="train")
