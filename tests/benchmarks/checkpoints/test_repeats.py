from __future__ import annotations

from robustbench_cli.benchmarks.checkpoints.repeats import resolve_repeats


def test_repeats_are_for_randomized_models() -> None:
    """Ten draws by default, or the user's number, score a randomized model; one pass scores a deterministic one."""
    assert [resolve_repeats(repeats, randomized=True) for repeats in (None, 1, 30)] == [10, 1, 30]
    assert [resolve_repeats(repeats, randomized=False) for repeats in (None, 1, 30)] == [1, 1, 1]
