from __future__ import annotations

import math

import pytest
import torch

from robustbench_cli.benchmarks.devices import automatic_batch_size, keep_freed_memory


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224), (3, 5000, 5000)])
def test_a_batch_is_chosen_for_every_image(kind: str, shape: tuple[int, int, int]) -> None:
    """At least one image, at most 4096; larger images come in smaller batches; a GPU takes no fewer than a CPU."""
    size = automatic_batch_size(torch.device(kind), shape)
    assert 1 <= size <= 4096
    larger = automatic_batch_size(torch.device(kind), (shape[0], 2 * shape[1], shape[2]))
    assert larger <= size
    assert size >= automatic_batch_size(torch.device("cpu"), shape)
    if 1 < size < 4096:
        assert size * math.prod(shape[1:]) <= (4096 * 32 * 32 if kind == "cuda" else 64 * 28 * 28)


def test_keeping_memory_changes_no_result() -> None:
    """Asked for once and again, arithmetic goes on as before."""
    before = torch.arange(1e6).sum()
    keep_freed_memory()
    keep_freed_memory()
    assert torch.equal(torch.arange(1e6).sum(), before)
