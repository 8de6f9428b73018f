from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.defensive_distillation import DefensiveDistillation, Distilled

CPU = torch.device("cpu")


def test_steps_of_teacher_and_student(digits: Any) -> None:
    """Full-batch steps on a linear model equal softmax regression's: one at temperature 1, then one of each at 5."""
    train, _ = digits
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    recipe = Recipe(epochs=1, batch_size=2000, optimizer="sgd", lr=2, weight_decay=0, schedule="constant")
    defense = DefensiveDistillation(temperature=5)
    protected = defense.protect(model, train.images[:1])
    defense.fit(protected, Trainer(train, recipe, seed=0, device=CPU))
    assert isinstance(protected, Distilled)
    rows = torch.cat([train.images.flatten(1), torch.ones(len(train), 1)], 1)

    def stepped(weights: Tensor, answers: Tensor, temperature: float) -> Tensor:
        # Nesterov's first step is (1 + momentum) times as long.
        error = answers - (rows @ weights.T / temperature).softmax(1)
        return weights + 2 * 1.9 * error.T @ rows / len(train) / temperature

    labels = functional.one_hot(train.labels, 10).float()
    first = stepped(torch.zeros(10, 65), labels, 1)
    teacher = stepped(first, labels, 5)
    student = stepped(first, (rows @ teacher.T / 5).softmax(1), 5)
    for network, expected in ((protected.teacher, teacher), (protected.student, student)):
        ours = torch.cat([network[1].weight, network[1].bias[:, None]], 1)  # type: ignore[index]
        torch.testing.assert_close(ours.detach(), expected, rtol=1e-3, atol=1e-3)


def test_it_hides_the_gradient_and_falls_to_its_logits(
    digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]
) -> None:
    """PGD on the cross-entropy breaks few digits, because most gradients are 0. PGD on the logits breaks most."""
    train, test = digits
    defense = DefensiveDistillation(temperature=100)
    model = defense.protect(network(), train.images[:1])
    trainer = Trainer(train, Recipe(epochs=10, lr=0.01), seed=0, device=CPU)
    defense.fit(model, trainer)
    assert set(trainer.record["trained"]) == {"first epoch", "teacher", "student"}
    assert accuracy(model, test) > 0.75
    images, labels = test.images[:200], test.labels[:200]
    left = {}
    for attack in (PGD(steps=20), CWPGD(steps=20)):
        perturbed = attack(model, images, labels, eps=0.15)
        left[type(attack)] = accuracy(model, type(test)(perturbed, labels))
    assert left[PGD] > left[CWPGD] + 0.3
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
    assert (gradient.flatten(1).abs().amax(1) == 0).double().mean() > 0.4


def test_a_given_teacher(digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]) -> None:
    """It is neither trained nor stored. The student of a constant teacher learns the teacher's output."""
    train, _ = digits

    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_tensor([0.0] * 9 + [50.0]).expand(len(images), 10)

    defense = DefensiveDistillation(temperature=5, teacher=Constant())
    model = defense.protect(network(), train.images[:1])
    assert all(name.startswith("student.") for name in model.state_dict())
    trainer = Trainer(train, Recipe(epochs=5), seed=0, device=CPU)
    defense.fit(model, trainer)
    assert set(trainer.record["trained"]) == {"first epoch", "student"}
    with torch.no_grad():
        assert (model(train.images[:200]).argmax(1) == 9).all()


def test_a_checkpoint_needs_no_teacher(network: Callable[[], nn.Module]) -> None:
    """A new model, built from the parameters alone, loads the weights without the teacher's file."""
    images = torch.rand(3, 1, 8, 8)
    trained = DefensiveDistillation(teacher=network()).protect(network(), images[:1]).eval()
    words = {"temperature": 100, "teacher": "gone.safetensors"}
    again = DefensiveDistillation.from_parameters(words, name="defensive-distillation")
    assert again.model_dump(mode="json") == words
    built = again.protect(network(), images[:1]).eval()
    built.load_state_dict(trained.state_dict())
    assert torch.equal(built(images), trained(images))
    with pytest.raises(UserError, match=r"the teacher is the file gone.safetensors: give its model"):
        again.fit(built, Trainer([], Recipe(), seed=0, device=CPU))  # type: ignore[arg-type]
    assert DefensiveDistillation(teacher=Path("gone.safetensors")) == DefensiveDistillation(
        teacher=Path("gone.safetensors")
    )


def test_bad_parameters(network: Callable[[], nn.Module]) -> None:
    """A temperature of 0, and a teacher of other classes or images, are usage errors."""
    for temperature in (0, -1):
        with pytest.raises(UserError, match=rf"^defensive-distillation.temperature is {temperature}: input should be"):
            DefensiveDistillation.from_parameters({"temperature": temperature}, name="defensive-distillation")
    image = torch.rand(1, 1, 8, 8)
    fewer = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(UserError, match=r"^defensive-distillation.teacher has 5 classes, the model has 10: give"):
        DefensiveDistillation(teacher=fewer).protect(network(), image)
    larger = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(UserError, match=r"^defensive-distillation.teacher does not take the model's images, 1x8x8 \("):
        DefensiveDistillation(teacher=larger).protect(network(), image)
