from __future__ import annotations

from functools import partial

import pytest

from robustbench_cli.benchmarks.comparison.timing import Ratio, in_turn, ratio


def test_a_ratio_is_taken_within_each_turn() -> None:
    """A machine that is three times slower in one turn changes no ratio, and the middle of those is the median."""
    slowdown = [1, 3, 1, 1]
    longer = [times * load for times, load in zip([4.0, 6.0, 5.0, 20.0], slowdown, strict=True)]
    shorter = [2.0 * load for load in slowdown]
    assert ratio(longer, shorter) == Ratio(middle=2.75, lowest=2.0, highest=10.0)
    assert str(ratio(longer, shorter)) == "2.75 (2.00 to 10.00)"
    assert str(ratio(longer[:1], shorter[:1])) == "2.00"


def test_a_ratio_of_other_turns_is_refused() -> None:
    """Seconds that do not belong to the same turns cannot be compared."""
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_runs_take_turns() -> None:
    """All are run before any is run again, once more than is counted."""
    calls: list[str] = []
    seconds = in_turn({name: partial(calls.append, name) for name in "ab"}, turns=2)
    assert calls == [*"ababab"]
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}
