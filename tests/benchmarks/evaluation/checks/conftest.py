"""A network that the tests of several checks share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def images() -> Tensor:
    """Eight images of 12 x 12."""
    return torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> nn.Module:
    """A small network of ten classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 10))
    return model.eval().requires_grad_(False)
