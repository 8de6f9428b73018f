from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.attacks.square import Square
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


@pytest.mark.parametrize(
    ("attack", "eot", "raised"),
    [(PGD(steps=2), 1, True), (PGD(steps=2), "frozen", True), (PGD(steps=2), 5, False), (Square(queries=5), 1, False)],
    ids=str,
)
def test_only_gradients_of_a_single_draw_raise_the_flag(
    network: nn.Module, noisy: nn.Module, images: Tensor, attack: Any, eot: Any, raised: bool
) -> None:
    """The frozen draw is a single draw too; a deterministic model has no draws, and a score attack no gradients."""
    labels = network(images).argmax(1)
    assert ("no-eot" in evaluate(noisy, images, labels, attack=attack, eps=0.05, eot=eot).flags) == raised
    assert "no-eot" not in evaluate(network, images, labels, attack=attack, eps=0.05, eot=eot).flags
