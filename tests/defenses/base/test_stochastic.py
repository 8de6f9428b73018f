from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from robustbench_cli.defenses.base.stochastic import normal_like, uniform_like


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_numbers_have_their_distribution_in_any_layout(layout: torch.memory_format) -> None:
    """Shape and strides equal those of the rows, and the numbers are normal or uniform (Kolmogorov-Smirnov, level 0.001)."""
    rows = torch.zeros(20, 3, 10, 9).to(memory_format=layout)
    for draw, name in ((normal_like, "norm"), (uniform_like, "uniform")):
        numbers = draw(rows)
        assert numbers.shape == rows.shape
        assert numbers.stride() == rows.stride()
        assert stats.kstest(numbers.flatten().numpy(), name).pvalue > 0.001


@pytest.mark.parametrize("draw", [normal_like, uniform_like])
def test_numbers_do_not_depend_on_the_layout(draw: Callable[[Tensor], Tensor]) -> None:
    """The layout of a model is chosen by its time, which must not change an attack's result."""
    drawn = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        drawn.append(draw(torch.empty(2, 3, 4, 5).contiguous(memory_format=layout)))
        assert drawn[-1].is_contiguous(memory_format=layout)
    assert torch.equal(*drawn)
