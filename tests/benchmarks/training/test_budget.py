from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.training import budget
from robustbench_cli.benchmarks.training.budget import Budget, BudgetChoice, keep_to
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.benchmarks.training.train import Training, measure_epoch
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry

CPU = torch.device("cpu")
IMAGES = 1297

Keep = Callable[..., tuple[Training, BudgetChoice]]


def training(cache: Callable[..., ModelCache], name: str = "pgd-at", **parameters: Any) -> Training:
    spec = MethodSpec.of(registry.load(name)(**parameters), name=name)
    return cache().training(defenses=(spec,))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces the measurement: a pass takes 1 ms, more in small batches; ``calls`` counts measurements."""
    state: dict[str, Any] = {"calls": 0, "overhead": 0.0}

    def measure(candidate: Training, *, images: int, **_: object) -> tuple[float, int]:
        state["calls"] += 1
        passes = images * (1 + candidate.defenses[0].parameters.get("steps", 0))
        return passes * (1e-3 + state["overhead"] / candidate.recipe["batch_size"]), passes

    monkeypatch.setattr(budget, "measure_epoch", measure)
    return state


@pytest.fixture
def keep(cache: Callable[..., ModelCache], tmp_path: Path, measured: dict[str, Any]) -> Keep:
    """Keeps the training of ``pgd-at`` on digits to a budget."""

    def make(given: tuple[str, ...] = (), device: torch.device = CPU, **values: Any) -> tuple[Training, BudgetChoice]:
        return keep_to(Budget(**values), training(cache), tmp_path / "a.safetensors", given=given, device=device)

    return make


@pytest.mark.parametrize(("seconds", "steps", "epochs"), [(6, 3, 2), (200, 3, 39), (240, 5, 31), (500, 10, 36)])
def test_epochs_come_before_steps(keep: Keep, seconds: float, steps: int, epochs: int) -> None:
    """More steps come once they leave thirty epochs. An image takes steps + 1 passes; together they take the budget."""
    kept, choice = keep(seconds=seconds)
    assert (choice.steps, choice.epochs) == (steps, epochs)
    assert choice.epochs * choice.epoch_fraction * IMAGES * (steps + 1) * 1e-3 == pytest.approx(seconds)
    assert kept.recipe["epoch_fraction"] == choice.epoch_fraction
    assert choice.passes_per_second == pytest.approx(1000)
    assert (kept.recipe["epochs"], kept.recipe["batch_size"], kept.recipe["lr"]) == (epochs, 32, 8e-3)
    eps = kept.defenses[0].parameters["eps"]
    size = {3: 0.5, 5: 0.4, 10: 0.25}[steps]
    assert kept.defenses[0].parameters["step_size"] == pytest.approx(size * eps)
    assert kept.defenses[0].changed == ("steps", "step_size")
    assert keep(passes=seconds * 1000)[1].epochs == epochs


@pytest.mark.parametrize(("steps", "lr"), [(3990, 8e-3), (4010, 4e-3)])
def test_many_steps_are_smaller(keep: Keep, steps: int, lr: float) -> None:
    """A step is a batch of 32 images, each with 10 passes of the attack and one of the training."""
    kept, choice = keep(passes=steps * 32 * 11)
    assert (choice.steps, choice.lr, kept.recipe["lr"]) == (10, lr, lr)


def test_the_images_are_normalized(keep: Keep) -> None:
    """By the mean and the standard deviation of the training images, of which 1,000 of 1,297 are taken."""
    kept, choice = keep(seconds=100)
    images = load_dataset("digits").split("train").batch(torch.arange(IMAGES))[0]
    assert kept.mean == pytest.approx([float(images.mean())], abs=2e-3)
    assert kept.std == pytest.approx([float(images.std())], abs=2e-3)
    assert f", --mean {kept.mean[0]} --std {kept.std[0]} (" in choice.label


def test_a_network_of_the_users_own_may_normalize_by_itself(
    cache: Callable[..., ModelCache], tmp_path: Path, measured: dict[str, Any]
) -> None:
    own = training(cache).model_copy(update={"model_source": "0" * 64})
    kept, choice = keep_to(Budget(seconds=100), own, tmp_path / "a.safetensors", given=(), device=CPU)
    assert (kept.mean, kept.std, choice.mean) == (None, None, None)


def test_what_the_user_gave_stays(keep: Keep) -> None:
    """The budget then chooses the number of epochs only."""
    kept, choice = keep(seconds=100, given=("pgd-at.steps", "train.batch_size"))
    assert (choice.steps, choice.step_size, choice.batch_size, choice.lr) == (None, None, 128, None)
    assert (kept.recipe["lr"], kept.mean) == (4e-3, None)
    assert choice.epochs * choice.epoch_fraction == pytest.approx(100 / (IMAGES * 11e-3))
    assert kept.defenses[0].changed == ()


def test_a_training_on_single_steps_keeps_them(
    cache: Callable[..., ModelCache], tmp_path: Path, measured: dict[str, Any]
) -> None:
    kept, choice = keep_to(
        Budget(passes=100_000), training(cache, "soae-at"), tmp_path / "a.safetensors", given=(), device=CPU
    )
    assert (choice.steps, kept.defenses[0].parameters["steps"]) == (None, 1)
    assert choice.epochs * choice.epoch_fraction == pytest.approx(100_000 / (2 * IMAGES))


@pytest.mark.parametrize("given", ["train.lr", "train.optimizer", "train.schedule"])
def test_a_learning_rate_belongs_to_an_optimizer_and_a_schedule(keep: Keep, given: str) -> None:
    """If the user gives one of the three, the learning rate is the user's or the recipe's."""
    kept, choice = keep(seconds=100, given=(given,))
    assert (choice.batch_size, choice.lr, kept.recipe["lr"]) == (32, None, 4e-3)


def test_a_budget_without_an_attack_in_training(cache: Callable[..., ModelCache], tmp_path: Path) -> None:
    """The learning rate stays: only adversarial training was measured at another one."""
    kept, choice = keep_to(Budget(passes=200), cache().training(), tmp_path / "a.safetensors", given=(), device=CPU)
    assert (choice.batch_size, choice.lr, choice.steps, kept.recipe["lr"]) == (64, None, None, 4e-3)


@pytest.mark.parametrize(("passes", "epochs"), [(1000, 8), (9 * IMAGES, 16)])
def test_a_batch_that_is_used_several_times(
    cache: Callable[..., ModelCache], tmp_path: Path, measured: dict[str, Any], passes: int, epochs: int
) -> None:
    """free-at uses each batch in eight epochs, so their number is a multiple of eight."""
    replayed = training(cache, "free-at", replays=8)
    _, choice = keep_to(Budget(passes=passes), replayed, tmp_path / "a.safetensors", given=(), device=CPU)
    assert choice.epochs == epochs
    assert choice.epochs * choice.epoch_fraction * IMAGES == pytest.approx(passes)


def test_the_batch_size_of_a_gpu(keep: Keep, measured: dict[str, Any]) -> None:
    """The smallest that is nearly as fast as the fastest; the largest leaves four batches."""
    for overhead, size in ((0.0, 64), (0.05, 128), (1.0, 256)):
        measured["overhead"] = overhead
        _, choice = keep(seconds=500 + overhead, device=torch.device("cuda"))
        assert (choice.batch_size, choice.lr) == (size, None)


def test_a_budget_that_is_too_small(keep: Keep, tmp_path: Path) -> None:
    """The least that would be enough is named, and nothing is written."""
    with pytest.raises(UserError, match=r"less than a step with 32 images here: give at least --seconds 0\.13"):
        keep(seconds=0.125)
    with pytest.raises(UserError, match="give at least --passes 128"):
        keep(passes=127)
    assert keep(passes=128)[1].epoch_fraction * IMAGES == pytest.approx(32)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors.budget.partial"]


@pytest.mark.parametrize("budget", [{"seconds": 1e308}, {"passes": 10**18}])
def test_a_budget_beyond_any_use(keep: Keep, budget: dict[str, Any]) -> None:
    """Numbers of epochs that float64 does not hold, or that nobody could wait for."""
    with pytest.raises(UserError, match=r"^the budget is for more than 1,000,000 epochs here: give less$"):
        keep(**budget)


def test_the_same_command_chooses_the_same(keep: Keep, measured: dict[str, Any], tmp_path: Path) -> None:
    """From the file beside an unfinished training, whatever the speed is now; another budget measures again."""
    first = keep(seconds=200)
    calls, measured["overhead"] = measured["calls"], 1.0
    assert keep(seconds=200) == first
    assert measured["calls"] == calls
    assert keep(seconds=201)[1].epochs != first[1].epochs
    (tmp_path / "a.safetensors.budget.partial").write_text("{")
    assert keep(seconds=200) != first


def test_a_choice_has_no_part_in_the_key(keep: Keep) -> None:
    """The values have: the same values without a budget are the same training."""
    kept, _ = keep(seconds=200)
    assert kept.budget["epochs"] == 39
    assert kept.model_copy(update={"budget": {}}).key == kept.key


@pytest.mark.parametrize(
    ("name", "parameters", "passes"),
    [("none", {}, 1), ("pgd-at", {"steps": 2}, 3), ("trades", {"steps": 2}, 5), ("free-at", {"replays": 3}, 1)],
)
def test_an_epoch_is_measured(
    cache: Callable[..., ModelCache], name: str, parameters: dict[str, Any], passes: int
) -> None:
    """Passes of each image: of the weights, of the steps, and of TRADES on clean images; and two images of a trial pass."""
    chosen = cache().training() if name == "none" else training(cache, name, **parameters)
    _, counted = measure_epoch(chosen, images=100, device=CPU)
    assert 100 * passes <= counted <= 100 * passes + 2
