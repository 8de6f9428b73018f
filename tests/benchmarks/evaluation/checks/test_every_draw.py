from __future__ import annotations

from torch import Tensor, nn

from robustbench_cli.attacks.ddn import DDN
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


def test_a_minimal_norm_attack_on_a_randomized_model_is_flagged(
    network: nn.Module, noisy: nn.Module, images: Tensor
) -> None:
    """A fixed-radius attack is not, nor is a deterministic model."""
    labels = network(images).argmax(1)
    assert "every-draw" in evaluate(noisy, images, labels, attack=DDN(steps=3), eot=2).flags
    assert "every-draw" not in evaluate(noisy, images, labels, attack=PGD(steps=2), norm="l2", eps=0.1, eot=2).flags
    assert "every-draw" not in evaluate(network, images, labels, attack=DDN(steps=3)).flags
