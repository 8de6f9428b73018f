from __future__ import annotations

import dataclasses

import pytest

from robustbench_cli.benchmarks.evaluation.context import RunContext


def test_nothing_is_resumed_by_default() -> None:
    """And progress may be reported to nobody."""
    context = RunContext()
    context.progress(3)
    assert (context.device, context.batch_size, context.earlier, context.partial_results) == (None,) * 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.batch_size = 3  # type: ignore[misc]
