from __future__ import annotations

import math
import os
import time

from robustbench_cli.benchmarks.comparison.gallery.processes import Failed, in_processes


def test_each_argument_has_its_result_or_its_error() -> None:
    """Square roots, two at a time."""
    results = dict(in_processes(math.sqrt, [4.0, -1.0, 9.0, 16.0], jobs=2))
    failed = results.pop(-1.0)
    assert results == {4.0: 2.0, 9.0: 3.0, 16.0: 4.0}
    assert isinstance(failed, Failed)
    assert failed.reason.startswith("ValueError: ")


def test_a_crash_is_the_result_of_one_call() -> None:
    """Each process ends before it returns, with another exit code."""
    results = dict(in_processes(os._exit, [3, 4], jobs=1))
    assert results == {code: Failed(f"its process ended with exit code {code}") for code in (3, 4)}


def test_calls_end_at_the_deadline() -> None:
    """A long call is killed, and the next does not begin."""
    started = time.monotonic()
    assert list(in_processes(time.sleep, [3600.0, 3600.0], jobs=1, deadline=started + 0.5)) == []
    assert time.monotonic() - started < 600


def test_nothing_begins_after_the_deadline() -> None:
    assert list(in_processes(math.sqrt, [1.0], jobs=1, deadline=time.monotonic())) == []
