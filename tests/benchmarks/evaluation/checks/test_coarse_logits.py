from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.coarse_logits import CoarseLogits

from .conftest import MakeProbe

COARSE: dict[str, Callable[[Tensor], Tensor]] = {
    "one-hot": lambda logits: 10 * nn.functional.one_hot(logits.argmax(1), 10) + 0 * logits,
    "rounded": lambda logits: (logits * 0.3).round() / 0.3,
    "float16": lambda logits: logits.half().float(),
    "bfloat16": lambda logits: logits.bfloat16().float(),
}


class Changed(nn.Module):
    """A network with changed logits."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.network(images))


@pytest.mark.parametrize("kind", COARSE)
def test_coarse_outputs_are_found(make_probe: MakeProbe, network: nn.Module, images: Tensor, kind: str) -> None:
    """Whether they were rounded to few values or to half precision."""
    probe = make_probe(Changed(network, COARSE[kind]), images)
    assert CoarseLogits("coarse-logits").finding_in_model(probe) is not None


def test_the_logits_of_networks_are_not_coarse(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """Also not where classes are masked by equal logits."""
    masked = Changed(network, lambda logits: logits.index_fill(1, torch.arange(5, 10), -1e4))
    for model in (network, masked):
        assert CoarseLogits("coarse-logits").finding_in_model(make_probe(model, images)) is None
