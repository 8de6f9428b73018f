from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.evaluation.options import Targeted
from robustbench_cli.benchmarks.evaluation.targets import choose_targets

IMAGES = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 2])
LOGITS = torch.tensor([[[3.0, 1, 2], [3, -5, 2], [3, 1, 0], [1, 2, 9]]])
"""Of one draw: the label of the second image is its least likely class."""


@pytest.mark.parametrize(
    ("targeted", "targets"),
    [("next", [[1, 2, 0, 0]]), ("least-likely", [[1, 2, 1, 0]]), ("all", [[1, 2, 0, 0], [2, 0, 1, 1]]), ("no", [])],
)
def test_targets_are_wrong_classes(targeted: str, targets: list[list[int]]) -> None:
    """Also where the label is the least likely class."""
    source: Any = SimpleNamespace(logits=lambda images: LOGITS)
    chosen = choose_targets(source, IMAGES, LABELS, cast("Targeted", targeted), Random.of(0, IMAGES), classes=3)
    assert chosen.tolist() == targets


def test_random_targets_follow_the_images() -> None:
    """The same for an image in any batch, and never its label."""
    source: Any = None
    images = torch.rand(50, 1, 2, 2)
    labels = torch.arange(50) % 3
    indices = torch.arange(50)
    whole = choose_targets(source, images, labels, "random", Random.of(0, images, indices=indices), classes=3)
    part = choose_targets(
        source, images[20:], labels[20:], "random", Random.of(0, images[20:], indices=indices[20:]), classes=3
    )
    assert torch.equal(whole[:, 20:], part)
    assert not (whole == labels).any()
    assert set(whole.flatten().tolist()) == {0, 1, 2}
