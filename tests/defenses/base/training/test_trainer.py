from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress
from robustbench_cli.defenses.base.training.weight_selection import Collapse
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
    # The memory layout is tried on four images first.
    assert len(asked.pop(0)) == 4
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
        (HRS(channels=(2, 2)), "block 1", 2),
        (HRS(channels=(2, 2)), "block 1", 3),
        (HRS(channels=(2, 2)), "block 2", 1),
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
    assert set(trainer.record["trained"]) == ({"training"} if phase == "training" else {"block 1", "block 2"})
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


@pytest.mark.parametrize("in_evaluation", [False, True])
def test_too_little_memory(digits: Any, in_evaluation: bool) -> None:
    """A step, or a look at held-out images, that does not fit the memory ends the training in a line that says what to change."""

    class Large(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            if self.training is not in_evaluation:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return super().forward(images)

    network = nn.Sequential(nn.Flatten(), Large(64, 10))
    told = r"training runs out of memory: give a smaller batch_size \(OutOfMemoryError: CUDA out of memory. Tried to"
    with pytest.raises(UserError, match=told):
        Trainer(digits[0], Recipe(epochs=1, held_out=0.1), seed=0, device=CPU).fit(network, name="training")


def test_a_model_without_gradients(digits: Any) -> None:
    """A model whose logits do not depend on its weights for autograd is refused in words, and not by torch."""
    train, _ = digits

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            return self.linear(images.flatten(1)).detach()

    with pytest.raises(UserError, match=r"cannot be trained.*give a --checkpoint"):
        Trainer(train, Recipe(epochs=1), seed=0, device=CPU).fit(Detached(), name="detached")


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


def test_schedules() -> None:
    """Each rate is that of torch's own scheduler, and the cyclic one numpy's interpolation between its three corners."""
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


def test_what_is_not_used_is_no_part_of_a_recipe() -> None:
    """A feature that is off makes no other recipe, one that is on does."""
    plain = Recipe().in_effect
    assert Recipe(held_out_steps=3, milestones=(0.1,)).in_effect == plain
    assert not {"ema", "held_out", "held_out_eps", "held_out_steps", "milestones"} & set(plain)
    assert Recipe(held_out=0.1, held_out_steps=3).in_effect["held_out_steps"] == 3
    assert Recipe(ema=0.5, schedule="multistep").in_effect.keys() - plain.keys() == {"ema", "milestones"}


def test_the_running_mean_of_the_weights(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """What is left is the weighted sum of the weights after all steps, batch statistics among them, computed afterwards."""
    train, _ = digits
    model = normed()
    states = [{name: tensor.double() for name, tensor in model.state_dict().items()}]

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        states.append({name: tensor.double() for name, tensor in network.state_dict().items()})
        return nn.functional.cross_entropy(network(images), labels)

    recipe = Recipe(epochs=2, batch_size=650, ema=0.3)
    Trainer(train, recipe, seed=0, device=CPU).fit(model, name="averaged", loss=loss)
    raw = normed()
    raw.load_state_dict(states[0])
    Trainer(train, Recipe(epochs=2, batch_size=650), seed=0, device=CPU).fit(raw, name="averaged")
    # The loss sees the weights before each step: after the last, they are those of the training without a mean.
    after = [*states[2:], {name: tensor.double() for name, tensor in raw.state_dict().items()}]
    decays = [min(0.3, (1 + step) / (10 + step)) for step in range(4)]
    for name, tensor in model.state_dict().items():
        expected = states[0][name]
        for decay, state in zip(decays, after, strict=True):
            expected = decay * expected + (1 - decay) * state[name]
        if name.endswith("num_batches_tracked"):
            expected = after[-1][name]
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_best_epoch_stays(digits: Any, normed: Callable[[], nn.Module], accuracy: Callable[..., float]) -> None:
    """Of a training that forgets what it has learnt, the epoch that did best on images it never saw is what is left."""
    train, _ = digits
    model, seen, steps, after = normed(), set(), iter(range(1, 100)), []

    class Watched:
        def __len__(self) -> int:
            return len(train)

        def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            seen.update(indices.tolist())
            images, labels = train.batch(indices)
            return images, labels

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        assert not seen & set(trainer.held_out_indices.tolist())
        value = nn.functional.cross_entropy(network(images), labels)
        return value if next(steps) <= 30 else -value

    def look(progress: TrainingProgress) -> None:
        seen.clear()
        after.append((accuracy(model.eval(), held), progress.note))
        model.train()

    recipe = Recipe(epochs=6, batch_size=117, schedule="constant", held_out=0.1)
    trainer = Trainer(Watched(), recipe, seed=0, device=CPU, progress=look)
    held = type(train)(*train.batch(trainer.held_out_indices))
    assert len(trainer.held_out_indices) == 130
    assert torch.equal(torch.cat([trainer.held_out_indices, trainer.train_indices]).sort().values, torch.arange(1297))
    trainer.fit(model, name="forgetful", loss=loss)
    record = trainer.record["trained"]["forgetful"]
    assert record["kept_epoch"] == 3
    assert accuracy(model, held) == pytest.approx(record["held_out_accuracy"])
    assert after[4][0] < after[5][0] == max(value for value, _ in after)
    assert after[5][1] == f"the weights of epoch 3 are used: {record['held_out_accuracy']:.1%} held-out accuracy"


def test_held_out_images_are_attacked(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """At the radius that the defense trains for, or at that of the recipe; the larger it is, the fewer survive."""
    train, _ = digits

    def held_out_accuracy(eps: float, **fields: Any) -> float:
        trainer = Trainer(train, Recipe(epochs=10, held_out=0.2, **fields), seed=0, device=CPU)
        torch.manual_seed(0)
        trainer.fit(normed(), name="training", eps=eps)
        return float(trainer.record["trained"]["training"]["held_out_accuracy"])

    clean = held_out_accuracy(0)
    assert clean > 0.3
    assert held_out_accuracy(1.0, held_out_eps=0.0) == clean
    assert held_out_accuracy(0, held_out_eps=1.0) < held_out_accuracy(0.1) < clean


def test_a_collapse_ends_the_training(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """It ends at the first fall that is large enough, and the weights before it stay."""
    train, _ = digits
    model, values, states = normed(), iter([0.5, 0.4, 0.6, 0.39, 0.7]), []

    def measured(network: nn.Module) -> float:
        states.append(network[0].weight.detach().clone())  # type: ignore[index,union-attr,operator]
        return next(values)

    seen: list[TrainingProgress] = []
    trainer = Trainer(train, Recipe(epochs=5), seed=0, device=CPU, progress=seen.append)
    trainer.fit(model, name="training", collapse=Collapse(accuracy=measured, drop=0.2))
    assert len(states) == 4
    assert torch.equal(model[0].weight, states[2])
    assert not torch.equal(states[3], states[2])
    record = trainer.record["trained"]["training"]
    assert (record["collapsed_epoch"], record["watched_accuracy"], record["collapsed_accuracy"]) == (4, 0.6, 0.39)
    assert [(progress.epoch, progress.epochs) for progress in seen] == [(1, 5), (2, 5), (3, 5), (4, 4)]
    assert "fell from 60.0% to 39.0%" in seen[-1].note


def test_replays(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """Each batch comes several times in a row, in so many epochs fewer, and its gradients come from the caller."""
    train, _ = digits
    batches: list[Tensor] = []

    def gradients(network: nn.Module, images: Tensor, labels: Tensor, parameters: Any) -> tuple[Tensor, list[Tensor]]:
        batches.append(images)
        return torch.ones(()), [torch.ones_like(parameter) for parameter in parameters]

    recipe = Recipe(
        epochs=5, batch_size=650, optimizer="sgd", lr=1e-3, weight_decay=0, schedule="constant", momentum=1e-9
    )
    model = normed()
    before = model[0].weight.detach().clone()
    trainer = Trainer(train, recipe, seed=0, device=CPU)
    trainer.fit_with_gradients(model, gradients, name="training", replays=3)
    assert len(batches) == 2 * 2 * 3
    for start in range(0, 12, 3):
        assert torch.equal(batches[start], batches[start + 1])
        assert torch.equal(batches[start], batches[start + 2])
    assert not torch.equal(batches[2][0], batches[3][0])
    torch.testing.assert_close(model[0].weight.detach(), before - 0.012, rtol=1e-4, atol=1e-5)
    assert trainer.record["trained"]["training"]["loss"] == pytest.approx(1)


@pytest.mark.parametrize("fields", [{"ema": 0.9}, {"held_out": 0.1}, {"held_out": 0.1, "ema": 0.9}])
def test_what_is_kept_beside_the_weights_survives(
    digits: Any, normed: Callable[[], nn.Module], tmp_path: Path, fields: dict[str, Any]
) -> None:
    """A killed training goes on with its running mean, its best weights and what it has measured."""
    train, _ = digits

    def kill(progress: TrainingProgress) -> None:
        if progress.epoch == 2:
            raise KilledError

    def start(**options: Any) -> tuple[nn.Module, Trainer]:
        torch.manual_seed(0)
        return normed(), Trainer(train, Recipe(epochs=3, **fields), seed=3, device=CPU, **options)

    whole, trainer = start()
    trainer.fit(whole, name="training", eps=0.1)
    expected = trainer.record["trained"]["training"]
    killed, trainer = start(resume=tmp_path / "state.safetensors", progress=kill)
    with pytest.raises(KilledError):
        trainer.fit(killed, name="training", eps=0.1)
    resumed, trainer = start(resume=tmp_path / "state.safetensors")
    trainer.fit(resumed, name="training", eps=0.1)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    record = trainer.record["trained"]["training"]
    assert {**record, "seconds": 0} == {**expected, "seconds": 0}


def test_recipes_that_cannot_be() -> None:
    """A mean that never learns and a split that leaves less than half to train on are refused by name."""
    for key, value in {"ema": 1, "held_out": 0.9, "held_out_eps": 2, "milestones": [2]}.items():
        with pytest.raises(UserError, match=rf"train.{key}(.0)? is {value if key != 'milestones' else 2}: "):
            Recipe.from_parameters({key: value}, name="train")
