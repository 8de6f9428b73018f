from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.recipe import Recipe
from robustbench_cli.defenses.base.training import Trainer, TrainingProgress
from robustbench_cli.defenses.hrs import HRS
from robustbench_cli.defenses.none import Undefended

CPU = torch.device("cpu")


class KilledError(Exception):
    """Stands for whatever ends a training early."""


def test_step_of_sgd(digits: Any) -> None:
    """One full-batch step on a linear model is softmax regression's gradient times (1 + momentum), Nesterov's first step."""
    train, _ = digits
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    recipe = Recipe(epochs=1, batch_size=2000, optimizer="sgd", lr=0.5, weight_decay=0, schedule="constant")
    trainer = Trainer(train, recipe, seed=0, device=CPU)
    trainer.fit(model, name="linear")
    residual = 0.1 - torch.eye(10)[train.labels]
    gradient = residual.T @ train.images.flatten(1) / len(train)
    torch.testing.assert_close(model[1].weight.detach(), -0.5 * 1.9 * gradient)
    assert trainer.record["trained"]["linear"]["loss"] == pytest.approx(2.302585, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_gradient_in_another_memory_layout(digits: Any, optimizer: str) -> None:
    """A step is torch's own, element by element, where the loss reads the weights across their layout."""
    train, _ = digits
    target = torch.rand(4, 2, 3, 3)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(5, 3))
    goals = (target, torch.rand(3, 5))
    start = [layer.weight.detach().clone() for layer in model]

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        weights = [layer.weight for layer in network]  # type: ignore[union-attr]
        return sum(
            (weight.contiguous().mT.contiguous() - goal.mT).pow(2).sum()
            for weight, goal in zip(weights, goals, strict=True)
        )

    recipe = Recipe.from_parameters(
        {"epochs": 1, "batch_size": 2000, "optimizer": optimizer, "schedule": "constant"}, name="train"
    )
    Trainer(train, recipe, seed=0, device=CPU).fit(model, name="layout", loss=loss)
    for layer, before, goal in zip(model, start, goals, strict=True):
        parameter = nn.Parameter(before.clone())
        kind = torch.optim.AdamW if optimizer == "adam" else torch.optim.SGD
        options = {} if optimizer == "adam" else {"momentum": recipe.momentum, "nesterov": True}
        theirs = kind([parameter], lr=recipe.lr, weight_decay=recipe.weight_decay, **options)
        (parameter - goal).pow(2).sum().backward()
        theirs.step()
        torch.testing.assert_close(layer.weight.detach(), parameter.detach().clone())


def test_every_example_once_an_epoch(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """An epoch's batches hold each example once, in another order each time, and differ in size by one at most."""
    train, _ = digits
    asked: list[Tensor] = []

    class Watched:
        def __len__(self) -> int:
            return len(train)

        def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            asked.append(indices)
            images, labels = train.batch(indices)
            return images, labels

    Trainer(Watched(), Recipe(epochs=2, batch_size=500), seed=0, device=CPU).fit(normed(), name="watched")
    assert [len(indices) for indices in asked] == [433, 432, 432] * 2
    first, second = torch.cat(asked[:3]), torch.cat(asked[3:])
    assert torch.equal(first.sort().values, torch.arange(1297))
    assert torch.equal(second.sort().values, torch.arange(1297))
    assert not torch.equal(first, second)


def test_one_cycle() -> None:
    """The rate rises to lr in a fifth of the steps, falls to nearly nothing, and is never above lr."""
    recipe = Recipe(lr=2.0)
    rates = [recipe.rate(step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(2, rel=1e-4)
    assert 195 <= rates.index(max(rates)) <= 205
    assert 0 < rates[0] < 0.02
    assert 0 < rates[-1] < 1e-4
    assert all(Recipe(lr=2.0, schedule="constant").rate(step, 10) == 2 for step in range(10))


def test_frozen_parts_rest(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """Frozen layers keep weights and batch statistics and run in eval(), others train."""
    train, _ = digits
    model = normed()
    model[:2].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes: list[bool] = []
    model[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    Trainer(train, Recipe(epochs=1), seed=0, device=CPU).fit(model, name="half")
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{layer}.{part}" for layer in (3, 7, 9) for part in ("weight", "bias")}
    assert not any(modes)
    assert not any(module.training for module in model.modules())


def test_the_same_seed_trains_the_same(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """Weights follow from the seed and the name, whatever was drawn before, and the caller's draws go on undisturbed."""
    train, _ = digits
    start = normed().state_dict()
    recipe = Recipe(epochs=1)

    def trained(seed: int, name: str) -> Tensor:
        model = normed()
        model.load_state_dict(start)
        Trainer(train, recipe, seed=seed, device=CPU).fit(model, name=name)
        return model[9].weight.detach()

    torch.manual_seed(5)
    expected = torch.rand(3)
    first = trained(0, "a")
    model = normed()
    torch.manual_seed(5)
    Trainer(train, recipe, seed=0, device=CPU).fit(model, name="a")
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(trained(0, "a"), first)
    assert not torch.equal(trained(1, "a"), first)
    assert not torch.equal(trained(0, "b"), first)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("defense", "phase", "epoch"),
    [
        (Undefended(), "training", 1),
        (HRS(channels=(2, 2)), "block 1 channel 1", 2),
        (HRS(channels=(2, 2)), "block 1 channel 2", 3),
        (HRS(channels=(2, 2)), "block 2 channel 2", 1),
    ],
)
def test_a_killed_training_goes_on(
    digits: Any,
    normed: Callable[[], nn.Module],
    tmp_path: Path,
    optimizer: str,
    defense: Defense,
    phase: str,
    epoch: int,
) -> None:
    """A training killed after an epoch and resumed ends with bit for bit the weights of one that was not."""
    train, _ = digits
    recipe = Recipe.from_parameters({"epochs": 3, "optimizer": optimizer, "lr": 0.004}, name="train")

    def kill(progress: TrainingProgress) -> None:
        if (progress.name, progress.epoch) == (phase, epoch):
            raise KilledError

    def start(**options: Any) -> tuple[nn.Module, Trainer]:
        torch.manual_seed(0)
        return defense.protect(normed(), train.images[:1]), Trainer(train, recipe, seed=3, device=CPU, **options)

    whole, trainer = start()
    defense.fit(whole, trainer)
    killed, trainer = start(resume=tmp_path / "state.safetensors", progress=kill)
    with pytest.raises(KilledError):
        defense.fit(killed, trainer)
    seen: list[tuple[str, int]] = []
    resumed, trainer = start(
        resume=tmp_path / "state.safetensors", progress=lambda progress: seen.append((progress.name, progress.epoch))
    )
    torch.manual_seed(99)
    defense.fit(resumed, trainer)
    assert (phase, epoch) not in seen
    assert (phase, epoch + 1) in seen or epoch == 3
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert set(trainer.record["trained"]) == (
        {"training"} if phase == "training" else {f"block {i} channel {j}" for i in (1, 2) for j in (1, 2)}
    )
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


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
    """A file of another recipe, seed, data set or model is refused by its name, and left as it is."""
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


def test_a_state_that_is_none(digits: Any, normed: Callable[[], nn.Module], tmp_path: Path) -> None:
    """A file that holds no training is refused by its name."""
    path = tmp_path / "state.safetensors"
    path.write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"state.safetensors holds no training to resume"):
        Trainer(digits[0], Recipe(), seed=0, device=CPU, resume=path).fit(normed(), name="training")


def test_a_training_that_diverges(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """A loss that is not finite ends the training in a line that says what to change."""
    recipe = Recipe(epochs=2, optimizer="sgd", lr=1e30, schedule="constant")
    with pytest.raises(UserError, match=r"training diverged in epoch 1, its loss is (nan|inf): give a lower lr"):
        Trainer(digits[0], recipe, seed=0, device=CPU).fit(normed(), name="training")


def test_unknown_words_of_a_recipe() -> None:
    """A misspelt field and a value that cannot be are told by name."""
    with pytest.raises(UserError, match=r"train has no parameter 'epoch': did you mean 'epochs'\?"):
        Recipe.from_parameters({"epoch": 3}, name="train")
    with pytest.raises(UserError, match=r"train.epochs is 0: "):
        Recipe.from_parameters({"epochs": 0}, name="train")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_digits_are_learnt(
    digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float], precision: str
) -> None:
    """The default recipe takes the digits above 96 % in twenty epochs, in either precision, with float32 weights."""
    train, test = digits
    model = network()
    recipe = Recipe.from_parameters({"epochs": 20, "precision": precision}, name="train")
    Trainer(train, recipe, seed=0, device=CPU).fit(model, name="training")
    assert accuracy(model, test) > 0.96
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_loss_of_ones_own(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """A loss is given the network in train() and may itself ask for gradients with respect to the images."""
    train, _ = digits
    modes: list[bool] = []

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        modes.append(network.training)
        leaf = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(leaf), labels), leaf)
        return nn.functional.cross_entropy(network(images + 0.1 * gradient.sign()), labels)

    model = normed()
    before = model[0].weight.detach().clone()
    trainer = Trainer(train, Recipe(epochs=1), seed=0, device=CPU)
    trainer.fit(model, name="adversarial", loss=loss)
    assert len(modes) == 11
    assert all(modes)
    assert not torch.equal(model[0].weight, before)
    assert trainer.record["seconds"] > 0
