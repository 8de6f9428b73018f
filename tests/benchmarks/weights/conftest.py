"""What the tests of checkpoints share: a small network, and the comparison of state dicts."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


def network() -> nn.Sequential:
    """A small network with a BatchNorm, whose state dict has a counter that is no float."""
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), flatten=nn.Flatten(), fc=nn.Linear(8, 3))
    )


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether two state dicts are bit-equal."""
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
