from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.gradients import gradients_of
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress

CPU = torch.device("cpu")


def test_step_of_sgd(digits: Any) -> None:
    """One full-batch step on a linear model is the gradient of softmax regression times (1 + momentum) (Nesterov)."""
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


def test_steps_are_reported_when_they_are_done(digits: Any) -> None:
    """Each item comes once, in order; they are no epochs, and leave no trace in the record."""
    train, _ = digits
    reported: list[TrainingProgress] = []
    trainer = Trainer(train, Recipe(epochs=1), seed=0, device=CPU, progress=reported.append)
    seen = [(item, len(reported)) for item in trainer.steps("abc", name="choosing")]
    assert seen == [("a", 0), ("b", 1), ("c", 2)]
    assert [(state.name, state.epoch, state.epochs, state.loss) for state in reported] == [
        ("choosing", done, 3, None) for done in (1, 2, 3)
    ]
    assert trainer.record["trained"] == {}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_gradient_in_another_memory_layout(digits: Any, optimizer: str) -> None:
    """A step equals torch's own if the gradient has another memory layout than the weights."""
    train, _ = digits
    target = torch.rand(4, 2, 3, 3)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(5, 3))
    targets = (target, torch.rand(3, 5))
    start = [layer.weight.detach().clone() for layer in model]

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        weights = [layer.weight for layer in network]  # type: ignore[union-attr]
        return sum(
            (weight.contiguous().mT.contiguous() - goal.mT).pow(2).sum()
            for weight, goal in zip(weights, targets, strict=True)
        )

    recipe = Recipe.from_parameters(
        {"epochs": 1, "batch_size": 2000, "optimizer": optimizer, "schedule": "constant"}, name="train"
    )
    Trainer(train, recipe, seed=0, device=CPU).fit(model, name="layout", loss=loss)
    for layer, before, goal in zip(model, start, targets, strict=True):
        parameter = nn.Parameter(before.clone())
        kind = torch.optim.AdamW if optimizer == "adam" else torch.optim.SGD
        options = {} if optimizer == "adam" else {"momentum": recipe.momentum, "nesterov": True}
        reference = kind([parameter], lr=recipe.lr, weight_decay=recipe.weight_decay, **options)
        (parameter - goal).pow(2).sum().backward()
        reference.step()
        torch.testing.assert_close(layer.weight.detach(), parameter.detach().clone())


def test_frozen_layers_do_not_train(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """Frozen layers keep their weights and batch statistics and run in eval() mode. The others train."""
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


def test_a_loss_sees_where_an_epoch_begins(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """At its first step alone, also where a batch is replayed."""
    train, _ = digits
    trainer, recorded = Trainer(train, Recipe(epochs=4, batch_size=700), seed=0, device=torch.device("cpu")), []

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        recorded.append(trainer.begins_epoch)
        return functional.cross_entropy(network(images), labels)

    trainer.fit_with_gradients(normed(), gradients_of(loss), name="training", replays=2)
    assert recorded == 2 * [True, False, False, False]


def test_the_same_seed_trains_the_same(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """The seed and the name determine the weights. The caller's random state does not matter and stays unchanged."""
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


def test_a_training_that_diverges(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """A loss that is not finite ends the training with advice in one line."""
    recipe = Recipe(epochs=2, optimizer="sgd", lr=1e30, schedule="constant")
    with pytest.raises(UserError, match=r"training diverged in epoch 1, its loss is (nan|inf): give a lower lr"):
        Trainer(digits[0], recipe, seed=0, device=CPU).fit(normed(), name="training")


@pytest.mark.parametrize("in_evaluation", [False, True])
def test_out_of_memory(digits: Any, in_evaluation: bool) -> None:
    """An out-of-memory error in a step or on held-out images ends the training with advice in one line."""

    class Large(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            if self.training is not in_evaluation:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return super().forward(images)

    network = nn.Sequential(nn.Flatten(), Large(64, 10))
    message = r"training runs out of memory: give a smaller batch_size \(OutOfMemoryError: CUDA out of memory. Tried to"
    with pytest.raises(UserError, match=message):
        Trainer(digits[0], Recipe(epochs=1, held_out=0.1), seed=0, device=CPU).fit(network, name="training")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_digits_are_learned(
    digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float], precision: str
) -> None:
    """With the default recipe, twenty epochs on the digits give more than 96 % in both precisions, with float32 weights."""
    train, test = digits
    model = network()
    recipe = Recipe.from_parameters({"epochs": 20, "precision": precision}, name="train")
    Trainer(train, recipe, seed=0, device=CPU).fit(model, name="training")
    assert accuracy(model, test) > 0.96
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_replays(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """Each batch is used several times in a row, in fewer epochs, with the caller's gradients."""
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


def test_the_recorded_seconds(digits: Any, normed: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the time from the begin to the end of each epoch, summed over epochs and networks."""
    ticks = itertools.count()
    monkeypatch.setattr("robustbench_cli.defenses.base.training.trainer.time.perf_counter", lambda: 2.0 ** next(ticks))
    recorded: list[float] = []
    trainer = Trainer(
        digits[0], Recipe(epochs=2), seed=0, device=CPU, progress=lambda progress: recorded.append(progress.seconds)
    )
    trainer.fit(normed(), name="first")
    trainer.fit(normed(), name="second")
    # The clock shows 1, 2, 4, 8, ...: an epoch from 1 to 2 takes 1, the next one from 4 to 8 takes 4.
    assert recorded == [1, 1 + 4, 16, 16 + 64]
    assert {name: part["seconds"] for name, part in trainer.record["trained"].items()} == {"first": 5, "second": 80}
    assert trainer.record["seconds"] == 85


@pytest.mark.parametrize(
    "options",
    [
        {"nesterov": False},
        {"clip_norm": 0.05},
        {"label_smoothing": 0.2},
        {"decayed": "weights", "weight_decay": 0.5},
        {"decayed": "weights-and-biases", "weight_decay": 0.5, "clip_norm": 0.5, "optimizer": "adam"},
        {"schedule": "torch-one-cycle", "warmup": 0.5},
    ],
    ids=lambda options: "+".join(options),
)
def test_steps_equal_those_of_torch(digits: Any, options: dict[str, Any]) -> None:
    """Six full-batch steps give the weights of a plain loop with torch's optimizer, clipping, smoothing and scheduler."""
    train, _ = digits
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 10))
    reference = copy.deepcopy(model)
    values = {"optimizer": "sgd", "lr": 0.2, "weight_decay": 0.01, "schedule": "constant", **options}
    recipe = Recipe.from_parameters({"epochs": 6, "batch_size": 2000, **values}, name="train")
    Trainer(train, recipe, seed=0, device=CPU).fit(model, name="parity")

    weights = [reference[1].weight, reference[4].weight]
    others = [reference[1].bias, reference[4].bias] if options.get("decayed") == "weights" else []
    norms = list(reference[2].parameters()) if "decayed" in options else []
    decayed = [
        parameter for parameter in reference.parameters() if not any(parameter is each for each in others + norms)
    ]
    assert all(any(weight is each for each in decayed) for weight in weights)
    groups = [{"params": decayed}, {"params": others + norms, "weight_decay": 0.0}]
    if values["optimizer"] == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=0.2, weight_decay=recipe.weight_decay)
    else:
        nesterov = options.get("nesterov", True)
        optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9, nesterov=nesterov, weight_decay=recipe.weight_decay)
    cycle = "warmup" in options
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=6, pct_start=0.5) if cycle else None
    loss = nn.CrossEntropyLoss(label_smoothing=options.get("label_smoothing", 0))
    for _ in range(6):
        optimizer.zero_grad()
        loss(reference(train.images), train.labels).backward()
        if "clip_norm" in options:
            nn.utils.clip_grad_norm_(reference.parameters(), options["clip_norm"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_label_smoothing_that_no_loss_uses(digits: Any) -> None:
    """An option that was given is never ignored."""
    train, _ = digits
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(images), labels)

    with pytest.raises(UserError, match=r"train.label_smoothing has no effect on this loss \(own\): leave it out"):
        Trainer(train, Recipe(epochs=1, label_smoothing=0.1), seed=0, device=CPU).fit(model, name="own", loss=loss)


def test_bf16_has_float32_master_weights(digits: Any) -> None:
    """The layers compute in bf16, and steps far below bf16's resolution still move the weights, as exact sums do."""
    train, _ = digits
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = model[1].weight.detach().clone()
    seen: set[torch.dtype] = set()
    model[1].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    values = {"optimizer": "sgd", "schedule": "constant", "weight_decay": 0, "precision": "bf16", "lr": 1e-6}
    recipe = Recipe.from_parameters({"epochs": 1, "batch_size": 2000, **values}, name="train")
    Trainer(train, recipe, seed=0, device=CPU).fit(model, name="bf16")
    assert torch.bfloat16 in seen
    assert model[1].weight.dtype == torch.float32
    logits = nn.functional.linear(train.images.flatten(1), before, model[1].bias.detach())
    gradient = (logits.softmax(1) - torch.eye(10)[train.labels]).T @ train.images.flatten(1) / len(train)
    moved = model[1].weight.detach() - before
    assert moved.abs().max() < 1e-5
    torch.testing.assert_close(moved, -1.9e-6 * gradient, rtol=0.05, atol=3e-8)
