from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.saturated_logits import SaturatedLogits

from .conftest import MakeProbe


class Apart(nn.Module):
    """Logits with a given gap between the first class and all others."""

    def __init__(self, gap: float) -> None:
        super().__init__()
        self.gap = gap

    def forward(self, images: Tensor) -> Tensor:
        return (
            self.gap * nn.functional.one_hot(torch.zeros(len(images), dtype=torch.int64), 3) + 0 * images[:, 0, 0, :1]
        )


@pytest.mark.parametrize("gap", [20.0, 103.0, 105.0, 1e4])
def test_logits_are_saturated_where_the_gradient_of_the_cross_entropy_is_zero(
    make_probe: MakeProbe, images: Tensor, gap: float
) -> None:
    """Torch's own softmax in float32 shows it; its gradient is the probabilities minus the label."""
    logits = Apart(gap)(images)
    zero = not nn.functional.softmax(logits, 1)[:, 1:].any()
    found = SaturatedLogits("saturated-logits").finding_in_model(make_probe(Apart(gap), images))
    assert (found is not None) == zero
