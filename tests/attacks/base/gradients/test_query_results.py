from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.query_results import QueryPasses, joined


def test_draws_are_added_and_slices_put_side_by_side() -> None:
    """Results of two draws of three images, computed in pieces, are those of one pass over everything."""
    logits, gradients = torch.rand(2, 3, 4), torch.rand(2, 1, 3, 1, 2, 2)

    def piece(draw: int, part: slice) -> QueryPasses:
        return QueryPasses(
            logits[draw : draw + 1, part], gradients[draw][:, part], lambda: logits[draw : draw + 1, part, 0]
        )

    parts = (slice(0, 2), slice(2, 3))
    whole = QueryPasses.of_slices([QueryPasses.of_draws([piece(draw, part) for draw in (0, 1)]) for part in parts])
    assert torch.equal(whole.logits, logits)
    assert torch.equal(whole.gradients, gradients.sum(0))
    assert torch.equal(whole.values(), logits[:, :, 0])


def test_an_infinite_slope_is_zero() -> None:
    """As that of a square root at 0; the other pixels keep theirs."""
    slopes = torch.tensor([math.inf, -math.inf, math.nan, 2.0]).view(1, 1, 1, 2, 2)
    results = QueryPasses.of_draws([QueryPasses(torch.zeros(1, 1, 3), slopes, lambda: torch.zeros(1, 1))])
    assert results.gradients.flatten().tolist() == [0, 0, 0, 2]


def test_one_tensor_is_not_copied() -> None:
    """Most queries are one pass."""
    tensor: Tensor = torch.rand(2, 3)
    assert joined([tensor], 0) is tensor
    assert torch.equal(joined([tensor, tensor], 1), tensor.repeat(1, 2))
