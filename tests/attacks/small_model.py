"""A small model, images and seeds, with which attacks of other libraries run beside direct calls."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.rng import Random

EPS = 0.05
IMAGES = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def _model() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 5))
    with torch.no_grad():
        network[3].weight.normal_()
        # No class is the most likely of all images.
        network[3].bias.copy_(-network(IMAGES).mean(0))
    return network.eval().requires_grad_(requires_grad=False)


MODEL = _model()
LABELS: Tensor = MODEL(IMAGES).argmax(1)


def seed_all() -> int:
    """Seeds all global generators as an attack with seed 0 does, and returns the seed."""
    seed = int(Random.of(0, IMAGES).integers(2**31)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    return seed
