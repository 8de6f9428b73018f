from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from robustbench_cli.benchmarks.models.preact_resnet18 import PreActResNet18
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.training.loading import TensorExamples
from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.recipes import registry
from robustbench_cli.defenses.base.training.trainer import Trainer

CPU = torch.device("cpu")
IMAGES = 50_000
NAMES = registry.names()


def recipe_of(name: str, dataset: str = "cifar10") -> Recipe:
    values = {
        key.removeprefix("train."): value
        for key, (value, _) in registry.load(name).settings(dataset).items()
        if key.startswith("train.")
    }
    return Recipe.from_parameters(values, name="train")


def by_epoch(lr: float, *drops: int) -> Callable[[int, int, int], float]:
    """``adjust_learning_rate`` of TRADES, MART and AWP: a tenth from each of these epochs on, counted from 1."""

    def rate(epoch: int, batch: int, batches: int) -> float:
        value = lr
        for drop in drops:
            if epoch + 1 >= drop:
                value *= 0.1
        return value

    return rate


def rice(epoch: int, batch: int, batches: int) -> float:
    """``lr_schedule`` of train_cifar.py, piecewise, with its --epochs 200 and --lr-max 0.1."""
    t = epoch + (batch + 1) / batches
    if t / 200 < 0.5:
        return 0.1
    return 0.1 / 10.0 if t / 200 < 0.75 else 0.1 / 100.0


def pang(epoch: int, batch: int, batches: int) -> float:
    """``lr_schedule`` of train_cifar.py, piecewise, with its --lrdecay base and --lr-max 0.1."""
    t = epoch + (batch + 1) / batches
    if t < 100:
        return 0.1
    return 0.1 / 10.0 if t < 105 else 0.1 / 100.0


def madry(epoch: int, batch: int, batches: int) -> float:
    """``piecewise_constant`` with step_size_schedule: 0.1, from a half of the steps 0.01, from three quarters 0.001."""
    step, steps = epoch * batches + batch, 205 * batches
    return 0.1 if step < steps / 2 else 0.01 if step < steps * 3 / 4 else 0.001


def gowal(epoch: int, batch: int, batches: int) -> float:
    """``get_cosine_schedule``: optax's linear_schedule, joined with its cosine_decay_schedule."""
    count, warmup, total = epoch * batches + batch, 10 * batches, 400 * batches
    if count < warmup:
        return 0.4 * count / warmup
    return 0.4 * 0.5 * (1 + math.cos(math.pi * (count - warmup) / (total - warmup)))


def wang() -> tuple[list[float], list[float]]:
    """Rate and momentum of each epoch by the authors' scheduler, which they step after an epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.2, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, pct_start=0.025, total_steps=400)
    rates, momenta = [], []
    for _ in range(400):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    return rates, momenta


WANG_RATES, WANG_MOMENTA = wang()

# The number of epochs, the rate of a batch of an epoch (both from 0), the weight decay, and whether norms and biases decay.
AUTHORS: dict[str, tuple[int, Callable[[int, int, int], float], float, bool, bool]] = {
    "madry-2018": (205, madry, 2e-4, False, False),
    "trades-2019": (76, by_epoch(0.1, 75, 90, 100), 2e-4, True, True),
    "mart-2020": (120, by_epoch(0.01, 75, 90, 100), 3.5e-3, True, True),
    "awp-2020": (200, by_epoch(0.1, 100, 150), 5e-4, True, True),
    "rice-2020": (200, rice, 5e-4, True, True),
    "pang-2021": (110, pang, 5e-4, True, True),
    "gowal-2020": (400, gowal, 5e-4, False, True),
    "wang-2023": (400, lambda epoch, batch, batches: WANG_RATES[epoch], 5e-4, False, True),
}


def test_every_recipe_of_a_paper_is_checked() -> None:
    """A new recipe needs a line above."""
    assert set(NAMES) - {"default"} == set(AUTHORS)


@pytest.mark.parametrize("name", AUTHORS)
def test_the_rate_of_every_step(name: str) -> None:
    """The learning rate of each step of the whole training on CIFAR-10 equals that of the authors' code."""
    epochs, rate, *_ = AUTHORS[name]
    recipe = recipe_of(name)
    assert recipe.epochs == epochs
    batches = math.ceil(IMAGES / recipe.batch_size)
    steps = epochs * batches
    ours = torch.tensor([recipe.rate(step, steps) for step in range(steps)], dtype=torch.float64)
    theirs = [rate(epoch, batch, batches) for epoch in range(epochs) for batch in range(batches)]
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), rtol=1e-9, atol=1e-12)


class _EnoughError(Exception):
    """Ends a training."""


def steps_of(recipe: Recipe, count: int) -> Iterator[dict[str, Any]]:
    """The settings of the optimizer in the first steps on PreActResNet-18, with the names of what decays."""
    torch.manual_seed(0)
    network = PreActResNet18(channels=3, classes=10, width=2)
    names = {parameter: name for name, parameter in network.named_parameters()}
    examples = TensorExamples(torch.rand(8, 3, 32, 32), torch.arange(8))
    trainer = Trainer(examples, recipe.model_copy(update={"batch_size": 4, "held_out": 0}), seed=0, device=CPU)
    seen: list[dict[str, Any]] = []

    def record(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        groups = optimizer.param_groups
        decays = {names[parameter]: group["weight_decay"] for group in groups for parameter in group["params"]}
        settings = {key: {group[key] for group in groups} for key in ("lr", "momentum", "nesterov")}
        seen.append({"decays": decays, **{key: values.pop() for key, values in settings.items() if len(values) == 1}})
        if len(seen) == count:
            raise _EnoughError

    hook = register_optimizer_step_pre_hook(record)
    try:
        trainer.fit(network, name="schedule")
    except _EnoughError:
        pass
    finally:
        hook.remove()
    yield from seen


@pytest.mark.parametrize("name", AUTHORS)
def test_the_steps_of_a_network(name: str) -> None:
    """On PreActResNet-18 the optimizer gets the authors' rate, momentum and decay in each of the first steps."""
    _, rate, decay, norms_decay, biases_decay = AUTHORS[name]
    for step, settings in enumerate(steps_of(recipe_of(name), 5)):
        epoch, batch = divmod(step, 2)
        assert settings["lr"] == pytest.approx(rate(epoch, batch, 2), rel=1e-9, abs=1e-12)
        assert settings["momentum"] == pytest.approx(WANG_MOMENTA[epoch] if name == "wang-2023" else 0.9)
        assert settings["nesterov"] == (name in {"gowal-2020", "wang-2023"})
        for parameter, ours in settings["decays"].items():
            is_norm = "bn" in parameter
            decays = norms_decay if is_norm else biases_decay if parameter.endswith("bias") else True
            assert ours == (decay if decays else 0), parameter
        # 20 convolutions, 17 norms, and the last layer.
        assert len(settings["decays"]) == 20 + 2 * 17 + 2


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_one_of_the_parameters(name: str) -> None:
    """Each value has a source and is allowed; a recipe names defenses and departures that exist as it writes them."""
    recipe: type[NamedRecipe] = registry.load(name)
    for dataset in recipe.datasets or ("cifar10",):
        settings = recipe.settings(dataset)
        assert all(source for _, source in settings.values())
        recipe_of(name, dataset)
        for defense in recipe.defenses:
            values = {
                key.removeprefix("defense."): value
                for key, (value, _) in settings.items()
                if key.startswith("defense.")
            }
            defenses.load(defense).from_parameters(values, name=defense)
    assert recipe.paper
    assert set(recipe.for_dataset) <= set(recipe.datasets)
    assert all(isinstance(departure, str) and len(departure) > 20 for departure in recipe.departures)


def test_the_values_of_mnist() -> None:
    """TRADES has a beta of 1 there; Madry's training is Adam with a constant rate."""
    trades, madry = (registry.load(name).settings("mnist") for name in ("trades-2019", "madry-2018"))
    assert (trades["defense.beta"][0], trades["train.weight_decay"][0]) == (1, 0)
    mnist = recipe_of("trades-2019", "mnist")
    rates = by_epoch(0.01, 55, 75, 90)
    assert [mnist.rate(469 * epoch, 46_900) for epoch in range(100)] == pytest.approx(
        [rates(epoch, 0, 1) for epoch in range(100)]
    )
    assert (madry["train.optimizer"][0], madry["train.lr"][0], madry["train.schedule"][0]) == ("adam", 1e-4, "constant")
    assert "model" not in trades
