from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
    assert after[5][1] == f"the weights of epoch 3 are used: {record['held_out_accuracy']:.1%} held-out accuracy"


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
