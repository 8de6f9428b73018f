from __future__ import annotations

import pytest
import torch

from robustbench_cli.benchmarks.checkpoints.checkpoint import CheckpointInfo, save_checkpoint
from robustbench_cli.benchmarks.checkpoints.defended_model import Subject, open_subject
from robustbench_cli.benchmarks.comparison.models import Examples
from robustbench_cli.benchmarks.models.base.build import build_model


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The paper's network with fresh weights, as a checkpoint."""
    path = tmp_path_factory.mktemp("comparison") / "fresh.safetensors"
    torch.manual_seed(0)
    network = build_model("paper-cnn", shape=(1, 28, 28), classes=10)
    save_checkpoint(path, network, CheckpointInfo(model="paper-cnn", shape=(1, 28, 28), classes=10))
    return open_subject(path)


@pytest.fixture(scope="session")
def examples(subject: Subject) -> Examples:
    """Four images with the classes that the network gives them."""
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return Examples(images, subject.load()(images).argmax(1))
