from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.enumerable_draws import EnumerableDraws
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.models.small_cnn import SmallCNN
from robustbench_cli.benchmarks.reprogramming.run import Program, Reprogramming, reprogram, reprogrammed
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.hrs import HRS

SHAPE = (1, 8, 8)
DIGITS = load_dataset("digits")
TEST = DIGITS.split("test").batch(torch.arange(200))


@pytest.mark.parametrize(("task", "shape", "kernel"), [((1, 28, 28), (3, 32, 32), 3), ((2, 5, 7), (1, 8, 8), 5)])
def test_a_program_with_the_same_weights_everywhere_is_a_convolution(
    task: tuple[int, int, int], shape: tuple[int, int, int], kernel: int
) -> None:
    """Where every place has the same weights, it is torch's convolution of the padded image, then relu and tanh."""
    program = Program(task, shape, kernel=kernel)
    with torch.no_grad():
        program.weight.copy_(program.weight[:1].expand_as(program.weight))
        program.bias.copy_(program.bias[:1].expand_as(program.bias))
    images = torch.rand(4, *task)
    weight = program.weight[0].T.reshape(shape[0], task[0], kernel, kernel)
    high, wide = (shape[axis] + kernel - 1 - task[axis] for axis in (1, 2))
    padded = functional.pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
    expected = functional.conv2d(padded, weight, program.bias[0, 0]).relu().tanh()
    torch.testing.assert_close(program(images), expected)


def test_each_place_has_weights_of_its_own() -> None:
    """A weight at one place changes that pixel alone, and the pixel hangs on its window alone."""
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
    """A task that fits no window is refused, with what would fit."""
    with pytest.raises(UserError, match="images of 28x28 do not fit into 10x10"):
        Program((1, 28, 28), SHAPE, kernel=3)


@pytest.mark.parametrize("eot", [1, "exact"])
def test_the_training_is_that_of_the_whole(eot: Any) -> None:
    """The program ends with the weights of one trained through the model, or through all its paths, by autograd alone."""
    torch.manual_seed(0)
    model: Any = (
        SmallCNN(shape=SHAPE, classes=10)
        if eot == 1
        else HRS(channels=(2, 3)).protect(SmallCNN(shape=SHAPE, classes=10), torch.rand(1, *SHAPE))
    )
    method = Reprogramming(epochs=2, examples=256, shift=3)
    found = reprogram(
        model, SHAPE, 10, train=DIGITS.split("train"), images=TEST[0], labels=TEST[1], method=method, eot=eot
    )

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
    begun = expected.weight.detach().clone()
    trainer.fit(expected, name="program", loss=loss)
    torch.testing.assert_close(found.program.weight, expected.weight, rtol=1e-3, atol=1e-4)
    assert (expected.weight - begun).abs().max() > 0.01
    answers = [(each(expected(TEST[0])).argmax(1) == (TEST[1] + 3) % 10) for each in [model] if eot == 1]
    assert all(abs(found.accuracy - float(answer.double().mean())) < 0.011 for answer in answers)
    assert found.backwards == pytest.approx(2 * 256 * (1 if eot == 1 else model.cost_of_all_draws), abs=1)


def test_a_model_without_defense_learns_a_new_task(tmp_path: Path) -> None:
    """A classifier of digits is made to give each digit another class, far above guessing; and the store keeps it."""
    cache = ModelCache(dataset="digits", data_dir=None, device=torch.device("cpu"), seed=0, recipe={"epochs": 8})
    defended = cache.trained(cache.training(), tmp_path / "model.safetensors")
    method = Reprogramming(epochs=10, shift=3)
    options: Any = {
        "eot": "auto",
        "n": 200,
        "repeats": None,
        "seed": 0,
        "store": tmp_path / "runs",
        "device": torch.device("cpu"),
        "batch_size": None,
    }
    row = reprogrammed(defended, DIGITS, method, **options)
    assert row.reprogrammed_accuracy > 0.4 > 2 * row.commonest_class
    assert row.reprogrammed_accuracy_low < row.reprogrammed_accuracy < row.reprogrammed_accuracy_high
    again = reprogrammed(defended, DIGITS, method, **options)
    assert again == row
    (kept,) = (tmp_path / "runs" / "reprogramming").iterdir()
    assert json.loads(kept.read_text())["cell"] == row.cell == kept.stem
    whole = kept.read_bytes()
    for damaged in (b"{}", whole.replace(b'"n": 200', b'"n": 201'), whole[:-9]):
        kept.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{kept} is damaged, its content is not what was stored: remove"):
            reprogrammed(defended, DIGITS, method, **options)


def test_examples_that_lack_a_class(tmp_path: Path) -> None:
    """Images sorted by class, of which the first are of few: refused, since what is not learnt would look like protection."""
    parts = {"images": np.zeros((40, 8, 8), dtype=np.uint8), "labels": np.arange(40) // 10}
    np.savez(tmp_path / "sorted.npz", **parts, **{f"train_{name}": part for name, part in parts.items()})
    task = load_dataset(f"npz:{tmp_path / 'sorted.npz'}")
    cache = ModelCache(dataset="digits", data_dir=None, device=torch.device("cpu"), seed=0, recipe={"epochs": 1})
    defended = cache.trained(cache.training(), tmp_path / "model.safetensors")

    def attacked(examples: int) -> float:
        row = reprogrammed(
            defended,
            task,
            Reprogramming(epochs=1, examples=examples),
            eot="auto",
            n=40,
            repeats=None,
            seed=0,
            store=tmp_path / "runs",
            device=torch.device("cpu"),
            batch_size=None,
        )
        return row.reprogrammed_accuracy

    message = (
        r"the first 20 training images of npz:.* are of 2 of 4 classes: give more of them with reprogramming.examples"
    )
    with pytest.raises(UserError, match=message):
        attacked(20)
    assert 0 <= attacked(40) <= 1


def test_a_task_of_more_classes() -> None:
    """A model of three classes cannot name ten."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(UserError, match="more classes than the model's 3"):
        reprogram(model, SHAPE, 3, train=DIGITS.split("train"), images=TEST[0], labels=TEST[1], method=Reprogramming())
