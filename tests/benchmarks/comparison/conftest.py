from __future__ import annotations

import pytest
import torch

from robustbench_cli.benchmarks.checkpoints.checkpoint import CheckpointInfo, save_checkpoint
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, open_defended_model
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.models.base.build import build_model


@pytest.fixture(scope="session")
def defended(tmp_path_factory: pytest.TempPathFactory) -> DefendedModel:
    """The paper's network with fresh weights, as a checkpoint."""
    path = tmp_path_factory.mktemp("comparison") / "fresh.safetensors"
    torch.manual_seed(0)
    network = build_model("paper-cnn", shape=(1, 28, 28), classes=10)
    save_checkpoint(path, network, CheckpointInfo(model="paper-cnn", shape=(1, 28, 28), classes=10))
    return open_defended_model(path)


@pytest.fixture(scope="session")
def examples(defended: DefendedModel) -> ImageSet:
    """Four images with the classes that the network gives them."""
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return ImageSet(images, defended.load()(images).argmax(1))
