from __future__ import annotations

import sys

import pytest

from robustbench_cli.benchmarks.comparison.stores import compare_stores, usage
from robustbench_cli.core.errors import UserError


def test_the_usage_is_that_of_the_command() -> None:
    """Its processor time, not its sleep; and its memory, not the larger memory of this process."""
    work = "import time\nblock = b'x' * 50_000_000\ntime.sleep(0.5)\nwhile time.process_time() < 0.3: pass"
    used = usage([sys.executable, "-S", "-c", work])
    assert 0.3 <= used.seconds < 0.7
    assert 50 <= used.memory < 100


def test_a_command_that_fails_is_named() -> None:
    """Its usage is no figure."""
    with pytest.raises(RuntimeError, match=r"exit code 3: .*SystemExit"):
        usage([sys.executable, "-S", "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize("cells", [0, 100])
def test_a_store_has_whole_models(cells: int) -> None:
    """Before anything is measured."""
    with pytest.raises(UserError, match=rf"^--cells is {cells}: give multiples of 40, the results of a model$"):
        compare_stores(cells=[40, cells], turns=1)
