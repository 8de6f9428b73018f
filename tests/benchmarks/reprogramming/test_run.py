from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.reprogramming.program import Reprogramming, ReprogrammingOptions
from robustbench_cli.benchmarks.reprogramming.records import ReprogrammedModel
from robustbench_cli.benchmarks.reprogramming.run import reprogram_model
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import UserError

DIGITS = load_dataset("digits")
AUTOMATIC = ReprogrammingOptions(eot="auto", repeats=None)


def trained(folder: Path, *, epochs: int) -> DefendedModel:
    """The undefended network."""
    cache = ModelCache(dataset="digits", data_dir=None, device=torch.device("cpu"), seed=0, recipe={"epochs": epochs})
    return cache.trained(cache.training(), folder / "model.safetensors")


def test_a_model_without_defense_learns_a_new_task(tmp_path: Path) -> None:
    """A classifier of digits gives each digit another class, far above guessing, and the store returns the result."""
    defended = trained(tmp_path, epochs=8)
    method = Reprogramming(epochs=10, shift=3)

    def run() -> ReprogrammedModel:
        return reprogram_model(defended, DIGITS, method, AUTOMATIC, n=200, store=tmp_path / "runs")

    row = run()
    assert row.reprogrammed_accuracy > 0.4 > 2 * row.commonest_class
    assert row.reprogrammed_accuracy_low < row.reprogrammed_accuracy < row.reprogrammed_accuracy_high
    assert (row.eot, row.repeats, row.n, row.task) == (1, 1, 200, "digits")
    assert run() == row
    (path,) = (tmp_path / "runs" / "reprogramming").iterdir()
    path.write_bytes(b"{}")
    with pytest.raises(UserError, match=f"{path} is damaged, its content is not what was stored: remove"):
        run()


def test_training_images_that_lack_a_class(tmp_path: Path) -> None:
    """Images sorted by class: the first few lack classes. A low accuracy would look like protection, so it is an error."""
    parts = {"images": np.zeros((40, 8, 8), dtype=np.uint8), "labels": np.arange(40) // 10}
    np.savez(tmp_path / "sorted.npz", **parts, **{f"train_{name}": part for name, part in parts.items()})
    task = load_dataset(f"npz:{tmp_path / 'sorted.npz'}")
    defended = trained(tmp_path, epochs=1)

    def run(examples: int) -> ReprogrammedModel:
        method = Reprogramming(epochs=1, examples=examples)
        return reprogram_model(defended, task, method, AUTOMATIC, n=40, store=tmp_path / "runs")

    message = (
        r"the first 20 training images of npz:.* are of 2 of 4 classes: give more of them with reprogramming.examples"
    )
    with pytest.raises(UserError, match=message):
        run(20)
    # The images are all equal, so the model gives all of them the same of the four equally frequent classes, or another.
    assert run(40).reprogrammed_accuracy in {0, 0.25}


def test_a_task_with_more_classes_than_the_model(tmp_path: Path) -> None:
    """It is an error that names both numbers, before anything is trained."""
    np.savez(tmp_path / "many.npz", images=np.zeros((24, 8, 8), dtype=np.uint8), labels=np.arange(24) // 2)
    task = load_dataset(f"npz:{tmp_path / 'many.npz'}")
    with pytest.raises(UserError, match=r"many.npz has 12 classes, and .* only 10: give a task of fewer"):
        reprogram_model(trained(tmp_path, epochs=1), task, Reprogramming(), AUTOMATIC, n=4, store=tmp_path / "runs")
