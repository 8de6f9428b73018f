from __future__ import annotations

import math
from typing import Any

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
    newer = {
        "nesterov": False,
        "decayed": "weights",
        "clip_norm": 1,
        "label_smoothing": 0.1,
        "schedule_position": "epoch",
    }
    assert Recipe(**newer).in_effect.keys() - plain.keys() == {*newer}
    assert Recipe(ema=0.5, schedule="multistep").in_effect.keys() - plain.keys() == {"ema", "milestones"}


def test_values_out_of_range() -> None:
    """Values out of range are usage errors that name the field."""
    for key, value in {"ema": 1, "held_out": 0.9, "held_out_eps": 2, "milestones": [2]}.items():
        with pytest.raises(UserError, match=rf"train.{key}(.0)? is {value if key != 'milestones' else 2}: "):
            Recipe.from_parameters({key: value}, name="train")


def test_warm_up() -> None:
    """A rise from 0 to lr, then the schedule in the steps that are left: optax's warm-up with a cosine, by its definition."""
    steps, rise = 40, 10
    for schedule, after in {
        "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
        "linear": lambda done: 1 - done,
        "constant": lambda done: 1.0,
    }.items():
        recipe = Recipe.from_parameters({"schedule": schedule, "lr": 0.4, "warmup": rise / steps}, name="train")
        expected = [0.04 * step for step in range(rise)]
        expected += [0.4 * after((step - rise) / (steps - rise)) for step in range(rise, steps)]
        assert [recipe.rate(step, steps) for step in range(steps)] == pytest.approx(expected)
    multistep = Recipe(schedule="multistep", lr=1, warmup=0.25, milestones=(0.5,))
    assert [multistep.rate(step, 8) for step in range(8)] == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.1, 0.1])


def test_milestones_between_steps() -> None:
    """A milestone that is a whole number of steps is one despite rounding: after 30 of 70 steps, after 74 of 76 epochs."""
    for part, whole in ((30, 70), (74, 76), (99, 200), (100, 110)):
        recipe = Recipe(schedule="multistep", lr=1, milestones=(part / whole,))
        rates = [recipe.rate(step, 391 * whole) for step in (391 * part - 1, 391 * part)]
        assert rates == pytest.approx([1, 0.1])


@pytest.mark.parametrize(("warmup", "total"), [(0.3, 20), (0.025, 400), (0.02, 20)])
def test_torch_one_cycle(warmup: float, total: int) -> None:
    """Rates and momentum equal those of torch's OneCycleLR, also without a step of the warm-up."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.2, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=total, pct_start=warmup)
    recipe = Recipe(optimizer="sgd", lr=0.2, schedule="torch-one-cycle", warmup=warmup)
    for step in range(total):
        theirs = {key: optimizer.param_groups[0][key] for key in ("lr", "momentum")}
        assert recipe.optimizer_values(step, total) == pytest.approx(theirs, rel=1e-6)
        optimizer.step()
        scheduler.step()
    # torch divides by 0 if the warm-up is a single step.
    single = Recipe(optimizer="sgd", lr=0.2, schedule="torch-one-cycle", warmup=0.05)
    assert single.optimizer_values(0, 20) == pytest.approx({"lr": 0.2, "momentum": 0.85})


def test_positions_in_the_schedule() -> None:
    """Finished steps, this one included, or finished epochs: the last changes the rate only between epochs."""
    common = {"schedule": "linear", "lr": 1, "epochs": 4}
    rates = {
        position: [Recipe(**common, schedule_position=position).rate(step, 12) for step in range(12)]
        for position in ("step", "next-step", "epoch")
    }
    assert rates["step"] == pytest.approx([1 - step / 12 for step in range(12)])
    assert rates["next-step"] == pytest.approx([1 - (step + 1) / 12 for step in range(12)])
    assert rates["epoch"] == pytest.approx([1, 1, 1, 0.75, 0.75, 0.75, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25])


def test_a_schedule_with_a_rise_of_its_own_takes_no_other() -> None:
    """An option that would change nothing is a usage error."""
    for schedule in ("one-cycle", "cyclic"):
        with pytest.raises(UserError, match=f"{schedule} has a rise of its own: leave warmup out"):
            Recipe.from_parameters({"schedule": schedule, "warmup": 0.1}, name="train")


def test_a_radius_for_no_held_out_images() -> None:
    """An option that would change nothing is a usage error."""
    with pytest.raises(UserError, match="train: held_out_eps is for held-out images: give held_out too"):
        Recipe.from_parameters({"held_out_eps": 0.1}, name="train")
    assert Recipe(held_out=0.1, held_out_eps=0.1).in_effect["held_out_eps"] == 0.1


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"momentum": 0.9}, {"optimizer": "sgd"}),
        ({"nesterov": False}, {"optimizer": "sgd"}),
        ({"milestones": [0.5]}, {"schedule": "multistep"}),
        ({"held_out_steps": 5}, {"held_out": 0.1}),
    ],
)
def test_values_without_effect(given: dict[str, Any], needed: dict[str, Any]) -> None:
    """A value that a user gave and that would change nothing is a usage error; one of a named recipe is not."""
    (key,), (other,) = given, needed
    recipe = Recipe.from_parameters(given, name="train")
    with pytest.raises(
        UserError, match=rf"^train: {key} has no effect without {other}\S*: give {other}\S* too, or leave"
    ):
        recipe.require_effect(given, name="train")
    recipe.require_effect({"epochs"}, name="train")
    both = {**given, **needed}
    Recipe.from_parameters(both, name="train").require_effect(both, name="train")
