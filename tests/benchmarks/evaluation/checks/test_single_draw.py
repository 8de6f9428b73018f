from __future__ import annotations

from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


def test_the_count_of_single_draws_is_flagged(network: nn.Module, noisy: nn.Module, images: Tensor) -> None:
    """Of a randomized model; both counts agree on a deterministic one."""
    labels = network(images).argmax(1)
    for model, accounting, raised in (
        (noisy, "single-draw", True),
        (noisy, "expected", False),
        (network, "single-draw", False),
    ):
        flags = evaluate(model, images, labels, attack=PGD(steps=2), eps=0.05, accounting=accounting).flags
        assert ("single-draw" in flags) == raised
