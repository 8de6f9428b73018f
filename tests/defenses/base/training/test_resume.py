from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress
from robustbench_cli.defenses.hrs import HRS
from robustbench_cli.defenses.none import Undefended
from robustbench_cli.defenses.pgd_at import PGDAT

CPU = torch.device("cpu")


class KilledError(Exception):
    """Ends a training early."""


Start = Callable[..., tuple[nn.Module, Trainer]]
"""Builds the untrained model and its trainer, which gets the keywords."""


def resumed(
    start: Start,
    fit: Callable[[nn.Module, Trainer], None],
    path: Path,
    *,
    kill: Callable[[TrainingProgress], bool] = lambda _: True,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> tuple[nn.Module, Trainer]:
    """Trains until ``kill`` is true of the progress, and resumes from the file ``path``."""

    def look(progress: TrainingProgress) -> None:
        if kill(progress):
            raise KilledError

    killed, trainer = start(resume=path, progress=look)
    with pytest.raises(KilledError):
        fit(killed, trainer)
    model, trainer = start(resume=path, progress=progress)
    torch.manual_seed(99)
    fit(model, trainer)
    return model, trainer


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("defense", "phase", "epoch"),
    [
        (Undefended(), "training", 1),
        (HRS(channels=(2, 2)), "block 1", 2),
        (HRS(channels=(2, 2)), "block 1", 3),
        (HRS(channels=(2, 2)), "block 2", 1),
    ],
)
def test_a_killed_training_resumes(
    digits: Any,
    normed: Callable[[], nn.Module],
    tmp_path: Path,
    optimizer: str,
    defense: Defense,
    phase: str,
    epoch: int,
) -> None:
    """A training that is killed after an epoch and resumed ends with exactly the weights of one that is not."""
    train, _ = digits
    recipe = Recipe.from_parameters({"epochs": 3, "optimizer": optimizer, "lr": 0.004}, name="train")

    def start(**options: Any) -> tuple[nn.Module, Trainer]:
        torch.manual_seed(0)
        return defense.protect(normed(), train.images[:1]), Trainer(train, recipe, seed=3, device=CPU, **options)

    whole, trainer = start()
    defense.fit(whole, trainer)
    recorded: list[tuple[str, int]] = []
    again, trainer = resumed(
        start,
        defense.fit,
        tmp_path / "state.safetensors",
        kill=lambda progress: (progress.name, progress.epoch) == (phase, epoch),
        progress=lambda progress: recorded.append((progress.name, progress.epoch)),
    )
    assert (phase, epoch) not in recorded
    assert (phase, epoch + 1) in recorded or epoch == 3
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert set(trainer.record["trained"]) == ({"training"} if phase == "training" else {"block 1", "block 2"})
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("defense", [PGDAT(eps=0.1, steps=2), HRS(channels=(2, 2))], ids=["pgd-at", "hrs"])
def test_augmentation_resumes(digits: Any, normed: Callable[[], nn.Module], tmp_path: Path, defense: Defense) -> None:
    """With random augmentations too, a killed training ends with exactly the weights of one that is not."""
    train, _ = digits
    augmentations = ["crop", "flip", "randaugment", "random-resized-crop", "cutmix", "mixup"]
    recipe = Recipe.from_parameters({"epochs": 2, "augmentations": augmentations}, name="train")

    def start(recipe: Recipe = recipe, **options: Any) -> tuple[nn.Module, Trainer]:
        torch.manual_seed(0)
        return defense.protect(normed(), train.images[:1]), Trainer(train, recipe, seed=3, device=CPU, **options)

    whole, trainer = start()
    defense.fit(whole, trainer)
    again, trainer = resumed(start, defense.fit, tmp_path / "state.safetensors")
    plain, other = start(recipe.model_copy(update={"augmentations": ()}))
    defense.fit(plain, other)
    weights = [torch.cat([tensor.flatten() for tensor in model.parameters()]) for model in (whole, again, plain)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert [entry["name"] for entry in trainer.record["recipe"]["augmentations"]] == augmentations


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("recipe", {"recipe": Recipe(epochs=3)}),
        ("seed", {"seed": 1}),
        ("number of examples", {"rows": 500}),
        ("model", {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}),
    ],
)
def test_a_state_of_another_training(
    digits: Any, normed: Callable[[], nn.Module], tmp_path: Path, what: str, changed: dict[str, Any]
) -> None:
    """A file of another recipe, seed, data set or model is a usage error and stays unchanged."""
    train, _ = digits
    path = tmp_path / "state.safetensors"

    def fit(recipe: Recipe, seed: int, rows: int, model: nn.Module) -> None:
        examples = type(train)(train.images[:rows], train.labels[:rows])
        Trainer(examples, recipe, seed=seed, device=CPU, resume=path).fit(model, name="training")

    options: dict[str, Any] = {"recipe": Recipe(epochs=1), "seed": 0, "rows": 1297, "model": normed()}
    fit(**options)
    content = path.read_bytes()
    with pytest.raises(UserError, match=rf"state.safetensors is a training with another {what}: delete it"):
        fit(**(options | changed))
    assert path.read_bytes() == content


def test_a_damaged_file(digits: Any, normed: Callable[[], nn.Module], tmp_path: Path) -> None:
    """A file that is no resume file is a usage error that names it."""
    path = tmp_path / "state.safetensors"
    path.write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"state.safetensors holds no training to resume"):
        Trainer(digits[0], Recipe(), seed=0, device=CPU, resume=path).fit(normed(), name="training")


@pytest.mark.parametrize(
    "fields", [{"ema": 0.9}, {"held_out": 0.1}, {"held_out": 0.1, "ema": 0.9}, {"held_out": 0.1, "swa_start": 0}]
)
def test_other_states_are_resumed(
    digits: Any, normed: Callable[[], nn.Module], tmp_path: Path, fields: dict[str, Any]
) -> None:
    """A resumed training has its running mean, its best weights and its metrics again."""
    train, _ = digits

    def start(**options: Any) -> tuple[nn.Module, Trainer]:
        torch.manual_seed(0)
        return normed(), Trainer(train, Recipe(epochs=3, **fields), seed=3, device=CPU, **options)

    def fit(network: nn.Module, trainer: Trainer) -> None:
        trainer.fit(network, name="training", eps=0.1)

    whole, trainer = start()
    fit(whole, trainer)
    expected = trainer.record["trained"]["training"]
    again, trainer = resumed(start, fit, tmp_path / "state.safetensors", kill=lambda progress: progress.epoch == 2)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    record = trainer.record["trained"]["training"]
    assert {**record, "seconds": 0} == {**expected, "seconds": 0}
    # A process that was killed before it wrote the checkpoint has the other weights again.
    model, last = start(resume=tmp_path / "state.safetensors")
    fit(model, last)
    for name, state in trainer.finals.items():
        for key, tensor in state.items():
            assert torch.equal(last.finals[name][key], tensor)
    assert list(last.finals) == list(trainer.finals)
