from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.duplicate_images import DuplicateImages

from .conftest import MakeProbe


def test_repeated_and_training_images_are_counted(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """Three of eleven images repeat others, and two are training images."""
    check, labels = DuplicateImages("duplicate-images"), torch.zeros(11, dtype=torch.int64)
    several = torch.cat([images, images[:3]])
    found = check.finding_in_model(make_probe(network, several, labels))
    assert found is not None
    assert found.figures == {"repeated": 3, "trained": 0, "n": 11}
    found = check.finding_in_model(make_probe(network, images, labels[:8], training=lambda: (images[6:], labels[:2])))
    assert found is not None
    assert found.figures == {"repeated": 0, "trained": 2, "n": 8}


def test_new_images_are_not_flagged(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """Images that differ by one gray level in one pixel are different; one repeated image is none too many."""
    check = DuplicateImages("duplicate-images")
    levels = (images * 255).round() / 255
    changed = levels.clone()
    changed[:, 0, 0, 0] = (changed[:, 0, 0, 0] + 1 / 255) % 1
    probe = make_probe(network, levels, training=lambda: (changed, torch.zeros(8, dtype=torch.int64)))
    assert check.finding_in_model(probe) is None
    assert check.finding_in_model(make_probe(network, torch.cat([levels, levels[:1]]))) is None
