from __future__ import annotations

import pytest
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


class Scaled(nn.Module):
    """A network whose logits are multiplied by a number."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.network(images)


@pytest.mark.parametrize(
    ("attack", "scale", "flags"),
    [
        (PGD(steps=3), 100.0, ()),
        (PGD(steps=3), 0.1, ("tiny-logits",)),
        (PGD(steps=3), 1e-6, ("tiny-logits",)),
        (PGD(steps=3), 1e-30, ("tiny-logits",)),
        (CWPGD(steps=3), 1e-6, ()),
    ],
)
def test_logits_are_tiny_for_a_loss_that_has_a_scale(
    network: nn.Module, images: Tensor, attack: Attack, scale: float, flags: tuple[str, ...]
) -> None:
    """The cross-entropy has one, the margin has none; nothing else is raised."""
    result = evaluate(Scaled(network, scale), images, network(images).argmax(1), attack=attack, eps=0.01)
    assert result.flags == flags


def test_two_classes_have_one_direction(network: nn.Module, images: Tensor) -> None:
    """At any scale."""
    model = nn.Sequential(network, nn.Linear(10, 2).requires_grad_(False))
    labels = model(images).argmax(1)
    assert "tiny-logits" not in evaluate(Scaled(model, 1e-6), images, labels, attack=PGD(steps=3), eps=0.01).flags
