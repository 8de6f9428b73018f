from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.loading import TensorExamples
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress
from robustbench_cli.defenses.base.training.weight_selection import Collapse

CPU = torch.device("cpu")


def test_the_running_mean_of_the_weights(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """The final weights and batch statistics are the weighted sum of those after all steps, computed afterwards here."""
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
    # The loss sees the weights before each step. Those after the last step come from a training without a mean.
    after = [*states[2:], {name: tensor.double() for name, tensor in raw.state_dict().items()}]
    decays = [min(0.3, (1 + step) / (10 + step)) for step in range(4)]
    for name, tensor in model.state_dict().items():
        expected = states[0][name]
        for decay, state in zip(decays, after, strict=True):
            expected = decay * expected + (1 - decay) * state[name]
        if name.endswith("num_batches_tracked"):
            expected = after[-1][name]
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)


def test_an_equal_average_has_new_batch_statistics(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """The weights are the mean of those after the last three of five epochs, the statistics those of torch's ``update_bn``."""
    train, _ = digits
    model, after = normed(), []

    def look(progress: TrainingProgress) -> None:
        after.append({name: tensor.double() for name, tensor in model.state_dict().items()})

    recipe = Recipe(epochs=5, batch_size=650, swa_start=0.4)
    trainer = Trainer(train, recipe, seed=0, device=CPU, progress=look)
    trainer.fit(model, name="averaged")
    # The last state is the average itself; the latest weights are kept beside it.
    latest = trainer.finals["latest"]
    after[-1] = {name: tensor.double() for name, tensor in latest.items()}
    expected = normed()
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            parameter.copy_(torch.stack([state[name] for state in after[2:]]).mean(0))
    batches = train.images.split(650)
    torch.optim.swa_utils.update_bn(batches, expected.train())
    for name, tensor in expected.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
            assert torch.equal(trainer.finals["averaged"][name], model.state_dict()[name])
    assert trainer.record["trained"]["averaged"]["averaged_epochs"] == 3
    assert all(module.momentum == 0.1 for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def test_the_last_epoch_is_always_averaged(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """An average that would begin after the last epoch is that of the last epoch."""
    train, _ = digits
    model = normed()
    trainer = Trainer(train, Recipe(epochs=2, batch_size=650, swa_start=0.9), seed=0, device=CPU)
    trainer.fit(model, name="averaged")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(trainer.finals["latest"][name], parameter.detach(), rtol=1e-6, atol=1e-7)


def test_two_averages() -> None:
    """Only one of the running mean and the equal average is possible."""
    with pytest.raises(UserError, match=r"ema and swa_start are two averages: give one of them"):
        Recipe.from_parameters({"ema": 0.9, "swa_start": 0.5}, name="train")


def test_latest_averaged_and_best_weights(
    digits: Any, normed: Callable[[], nn.Module], accuracy: Callable[..., float]
) -> None:
    """All are kept and measured on the held-out images, and the learning curve has a point for each epoch."""
    train, _ = digits
    model, steps = normed(), iter(range(1, 100))

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        value = nn.functional.cross_entropy(network(images), labels)
        return value if next(steps) <= 16 else -value

    reported: list[TrainingProgress] = []
    trainer = Trainer(
        train,
        Recipe(epochs=4, batch_size=150, schedule="constant", held_out=0.1, held_out_steps=2, ema=0.5),
        seed=0,
        device=CPU,
        progress=reported.append,
    )
    trainer.fit(model, name="training", loss=loss, eps=0.05)
    record = trainer.record["trained"]["training"]
    held_out = type(train)(*train.batch(trainer.held_out_indices))
    assert list(trainer.finals) == list(record["weights"]) == ["latest", "averaged", "best"]
    for name, state in trainer.finals.items():
        network = normed().eval()
        network.load_state_dict(state)
        assert accuracy(network, held_out) == pytest.approx(record["weights"][name]["held_out_clean"])
        assert name == "best" or not torch.equal(state["0.weight"], model.state_dict()["0.weight"])
    assert torch.equal(trainer.finals["best"]["0.weight"], model.state_dict()["0.weight"])
    assert [point["epoch"] for point in record["curve"]] == [1, 2, 3, 4]
    assert [point["loss"] for point in record["curve"]] == [progress.loss for progress in reported]
    assert {"clean", "robust", "held_out_clean", "held_out_robust"} < set(record["curve"][0])
    best = max(point["held_out_robust"] for point in record["curve"])
    assert best == record["held_out_accuracy"] == record["weights"]["best"]["held_out_robust"]
    assert reported[-1].note.endswith(f"{best:.1%} held-out robust accuracy")
    assert record["weights"]["averaged"]["held_out_robust"] == record["curve"][-1]["held_out_robust"] < best


@pytest.mark.parametrize(
    ("counts", "share", "message"),
    [
        ((50, 50, 1), 0.5, r"train.held_out=0.5 (leaves no image to train on|holds out no image) of class 2: give a"),
        (
            (50, 50, 50),
            0.01,
            r"train.held_out=0.01 holds out no image of class \d: give a larger share, as in --set train.held_out=0.1, or 0",
        ),
    ],
)
def test_a_share_that_leaves_a_class_empty(counts: tuple[int, ...], share: float, message: str) -> None:
    """Every class needs images to train on and held-out ones."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    examples = TensorExamples(torch.rand(len(labels), 1, 2, 2), labels)
    with pytest.raises(UserError, match=message):
        Trainer(examples, Recipe(held_out=share), seed=0, device=CPU)
    Trainer(examples, Recipe(), seed=0, device=CPU)


def test_the_best_epoch_stays(digits: Any, normed: Callable[[], nn.Module], accuracy: Callable[..., float]) -> None:
    """If a training gets worse again, the weights of the epoch with the best held-out accuracy are used."""
    train, _ = digits
    model, recorded, steps, after = normed(), set(), iter(range(1, 100)), []

    class Recording:
        def __len__(self) -> int:
            return len(train)

        def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            recorded.update(indices.tolist())
            images, labels = train.batch(indices)
            return images, labels

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        assert not recorded & set(trainer.held_out_indices.tolist())
        value = nn.functional.cross_entropy(network(images), labels)
        return value if next(steps) <= 30 else -value

    def look(progress: TrainingProgress) -> None:
        recorded.clear()
        after.append((accuracy(model.eval(), held), progress.note))
        model.train()

    recipe = Recipe(epochs=6, batch_size=117, schedule="constant", held_out=0.1)
    trainer = Trainer(Recording(), recipe, seed=0, device=CPU, progress=look)
    held = type(train)(*train.batch(trainer.held_out_indices))
    assert len(trainer.held_out_indices) == 130
    assert torch.equal(torch.cat([trainer.held_out_indices, trainer.train_indices]).sort().values, torch.arange(1297))
    trainer.fit(model, name="forgetful", loss=loss)
    record = trainer.record["trained"]["forgetful"]
    assert record["kept_epoch"] == 3
    assert accuracy(model, held) == pytest.approx(record["held_out_accuracy"])
    assert after[4][0] < after[5][0] == max(value for value, _ in after)
    assert after[5][1] == f"the weights of epoch 3 are used: {record['held_out_accuracy']:.1%} held-out clean accuracy"


def test_held_out_images_are_attacked(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """The radius is the defense's or the recipe's. A larger radius gives a lower held-out accuracy."""
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
    """Training ends at the first drop that is large enough, with the weights from before it."""
    train, _ = digits
    model, values, states = normed(), iter([0.5, 0.4, 0.6, 0.39, 0.7]), []

    def measured(network: nn.Module) -> float:
        states.append(network[0].weight.detach().clone())  # type: ignore[index,union-attr,operator]
        return next(values)

    recorded: list[TrainingProgress] = []
    trainer = Trainer(train, Recipe(epochs=5), seed=0, device=CPU, progress=recorded.append)
    trainer.fit(model, name="training", collapse=Collapse(accuracy=measured, drop=0.2))
    assert len(states) == 4
    assert torch.equal(model[0].weight, states[2])
    assert not torch.equal(states[3], states[2])
    record = trainer.record["trained"]["training"]
    assert (record["collapsed_epoch"], record["watched_accuracy"], record["collapsed_accuracy"]) == (4, 0.6, 0.39)
    assert [(progress.epoch, progress.epochs) for progress in recorded] == [(1, 5), (2, 5), (3, 5), (4, 4)]
    assert "fell from 60.0% to 39.0%" in recorded[-1].note


def test_the_average_before_a_collapse(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """It is the final one, equal to that of a training of as many epochs; the latest weights are those after the collapse."""
    train, _ = digits
    accuracies = iter([0.5, 0.6, 0.1])
    finals = []
    for epochs, collapse in ((4, Collapse(accuracy=lambda _: next(accuracies), drop=0.2)), (2, None)):
        torch.manual_seed(0)
        model = normed()
        trainer = Trainer(train, Recipe(epochs=epochs, schedule="constant", ema=0.9), seed=0, device=CPU)
        trainer.fit(model, name="training", collapse=collapse)
        assert list(trainer.finals) == list(trainer.record["trained"]["training"]["weights"]) == ["latest", "averaged"]
        assert torch.equal(trainer.finals["averaged"]["0.weight"], model.state_dict()["0.weight"])
        finals.append(trainer.finals)
    assert torch.equal(finals[0]["averaged"]["0.weight"], finals[1]["averaged"]["0.weight"])
    assert not torch.equal(finals[0]["latest"]["0.weight"], finals[1]["latest"]["0.weight"])
