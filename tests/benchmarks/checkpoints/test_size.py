from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.utils import prune

from robustbench_cli.benchmarks.checkpoints.defended_model import model_size
from robustbench_cli.benchmarks.checkpoints.size import ModelSize


def test_weights_that_are_zero_are_counted_apart() -> None:
    """Operations count whether their weights are zero or not, and the size is what a file says of it."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
        model[0].weight[0] = 0
    size = model_size(model, torch.zeros(1, 1, 4, 4))
    assert size == ModelSize(parameters=20 + 45, nonzero=20 + 45 - 9, macs=4 * 2 * 9 + 40)
    assert ModelSize.model_validate_json(size.model_dump_json()) == size
    with pytest.raises(ValidationError):
        ModelSize(parameters=-1, nonzero=0, macs=0)


def test_weights_that_torchs_pruning_masks_are_zero() -> None:
    """As in the weights that it leaves when it is made permanent."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5))
    targets = [(model[0], "weight"), (model[2], "weight"), (model[2], "bias")]
    prune.global_unstructured(targets, pruning_method=prune.L1Unstructured, amount=30)
    masked = model_size(model, torch.zeros(1, 1, 4, 4))
    for layer, name in targets:
        prune.remove(layer, name)
    assert masked == model_size(model, torch.zeros(1, 1, 4, 4))
    assert masked.nonzero == masked.parameters - 30


def test_operations_that_cannot_be_counted_are_no_number() -> None:
    """The file of a result has none."""
    size = model_size(nn.Sequential(nn.Flatten(), nn.LSTM(4, 3)), torch.zeros(1, 1, 2, 2))
    assert size.macs is None
    assert ModelSize.model_validate_json(size.model_dump_json()) == size
