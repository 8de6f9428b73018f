from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models import resnet18

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.plain_layers import inner_convolutions, plain_layers
from robustbench_cli.defenses.pni import PNI


def test_the_inner_convolutions_of_a_residual_network() -> None:
    """All but the first one and the three of its shortcuts, which are 1 x 1; those with groups do not count."""
    with torch.device("meta"):
        names = inner_convolutions(resnet18(), defense="gdws")
        assert len(names) == 16
        assert not any("downsample" in name or name == "conv1" for name in names)
        grouped = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, groups=2))
    with pytest.raises(
        UserError, match=r"^gdws replaces convolutions that are .* and Sequential has none behind its first"
    ):
        inner_convolutions(grouped, defense="gdws")


def test_only_plain_layers_count() -> None:
    """A layer has all its names; no attention, no normalized weights, no random weights."""
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.MultiheadAttention(4, 1), weight_norm(nn.Linear(4, 4)), shared)
    assert [*plain_layers(model, nn.Linear)] == ["0", "3"]
    random = PNI().protect(nn.Sequential(nn.Linear(4, 4)), torch.zeros(1, 4))
    assert not plain_layers(random, nn.Linear)
