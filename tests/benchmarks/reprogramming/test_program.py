from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.enumerable_draws import EnumerableDraws
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.models.small_cnn import SmallCNN
from robustbench_cli.benchmarks.reprogramming.program import (
    Program,
    Reprogramming,
    ReprogrammingOptions,
    Task,
    reprogram,
)
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.hrs import HRS

SHAPE = (1, 8, 8)
DIGITS = load_dataset("digits")
TEST_IMAGES, TEST_LABELS = DIGITS.split("test").batch(torch.arange(200))
TASK = Task(train=DIGITS.split("train"), images=TEST_IMAGES, labels=TEST_LABELS)


@pytest.mark.parametrize(("task", "shape", "kernel"), [((1, 28, 28), (3, 32, 32), 3), ((2, 5, 7), (1, 8, 8), 5)])
def test_a_program_with_the_same_weights_everywhere_is_a_convolution(
    task: tuple[int, int, int], shape: tuple[int, int, int], kernel: int
) -> None:
    """With the same weights at every position, it is torch's convolution of the padded image, then relu and tanh."""
    program = Program(task, shape, kernel=kernel)
    with torch.no_grad():
        program.weight.copy_(program.weight[:1].expand_as(program.weight))
        program.bias.copy_(program.bias[:1].expand_as(program.bias))
    images = torch.rand(4, *task)
    weight = program.weight[0].T.reshape(shape[0], task[0], kernel, kernel)
    height, width = (shape[axis] + kernel - 1 - task[axis] for axis in (1, 2))
    padded = functional.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))
    expected = functional.conv2d(padded, weight, program.bias[0, 0]).relu().tanh()
    torch.testing.assert_close(program(images), expected)


def test_each_position_has_its_own_weights() -> None:
    """A bias changes only its own pixel, and a pixel depends only on its own window."""
    program, images = Program(SHAPE, SHAPE, kernel=3), torch.rand(2, *SHAPE)
    with torch.no_grad():
        program.bias.fill_(1)
        before = program(images)
        program.bias[3 * 8 + 5] += 0.5
        assert ((program(images) != before).any(0)[0]).nonzero().tolist() == [[3, 5]]
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(program(leaf)[:, 0, 3, 5].sum(), leaf)
    assert (slope[0, 0] != 0).nonzero().tolist() == [[row, column] for row in (2, 3, 4) for column in (4, 5, 6)]


def test_images_that_are_too_large() -> None:
    """A task whose images exceed the padded size is an error that names the size."""
    with pytest.raises(UserError, match="images of 28x28 do not fit into 10x10"):
        Program((1, 28, 28), SHAPE, kernel=3)


@pytest.mark.parametrize("eot", [1, "exact"])
def test_the_training_equals_autograd_through_the_model(eot: Any) -> None:
    """The weights equal those of a training by plain autograd through the model, or through all its paths."""
    torch.manual_seed(0)
    model: Any = (
        SmallCNN(shape=SHAPE, classes=10)
        if eot == 1
        else HRS(channels=(2, 3)).protect(SmallCNN(shape=SHAPE, classes=10), torch.rand(1, *SHAPE))
    )
    method = Reprogramming(epochs=2, examples=256, shift=3)
    trained = reprogram(model, SHAPE, 10, TASK, method, ReprogrammingOptions(eot=eot))

    def loss(program: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        rows = program(images)
        logits = model.all_draws(rows) if isinstance(model, EnumerableDraws) else model(rows)[None]
        return functional.cross_entropy(logits.flatten(0, 1), ((labels + 3) % 10).repeat(len(logits)))

    class First:
        def __len__(self) -> int:
            return 256

        def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            return DIGITS.split("train").batch(indices)

    recipe = Recipe(epochs=2, lr=0.02, weight_decay=0)
    trainer = Trainer(First(), recipe, seed=0, device=torch.device("cpu"))
    model.eval().requires_grad_(False)
    with trainer.seeded("program"):
        expected = Program(SHAPE, SHAPE, kernel=3)
    initial = expected.weight.detach().clone()
    trainer.fit(expected, name="program", loss=loss)
    torch.testing.assert_close(trained.program.weight, expected.weight, rtol=1e-3, atol=1e-4)
    assert (expected.weight - initial).abs().max() > 0.01
    if eot == 1:
        correct = model(expected(TEST_IMAGES)).argmax(1) == (TEST_LABELS + 3) % 10
        assert abs(trained.accuracy - float(correct.double().mean())) < 0.011
    assert trained.backwards == pytest.approx(2 * 256 * (1 if eot == 1 else model.cost_of_all_draws), abs=1)


def test_a_task_of_more_classes() -> None:
    """A model of three classes cannot solve a task of ten."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(UserError, match="more classes than the model's 3"):
        reprogram(model, SHAPE, 3, TASK, Reprogramming(), ReprogrammingOptions())
