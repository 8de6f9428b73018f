from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.training.learned_data import learned_examples_of, write_learned_data
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.advkip import AdvKIP


def test_the_file_is_a_data_set(tmp_path: Path) -> None:
    """Its training images are those that a model inside wrappers has learned, and its test images those of the data."""
    data = load_dataset("digits")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model = nn.Sequential(nn.Identity(), AdvKIP(per_class=3).protect(network, torch.rand(1, *data.shape)))
    learned = learned_examples_of(model)
    assert learned is not None
    path = tmp_path / "x.learned.npz"
    assert write_learned_data(learned, data, path) == 30
    written = load_dataset(f"npz:{path}")
    assert (written.classes, written.shape) == (10, data.shape)
    images, labels = written.split("train").first(30)
    assert torch.equal(images, learned.learned_examples()[0])
    assert torch.equal(labels, torch.arange(10).repeat_interleave(3))
    for ours, theirs in zip(*(source.split("test").first(500) for source in (written, data)), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(UserError, match=r"^cannot write "):
        write_learned_data(learned, data, tmp_path)


def test_other_models_have_learned_no_images() -> None:
    """A network has weights only."""
    assert learned_examples_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))) is None
