from __future__ import annotations

import pytest

from robustbench_cli.cli.exit_codes import CellsFailed, GateFailed, Interrupted


@pytest.mark.parametrize("kind", [GateFailed, CellsFailed])
def test_lines_are_kept_apart(kind: type[GateFailed | CellsFailed]) -> None:
    """One for each row or cell, to be printed one below the other."""
    error = kind(["a is 0.1", "b is 0.2"])
    assert error.lines == ("a is 0.1", "b is 0.2")
    assert str(error) == "a is 0.1; b is 0.2"


def test_an_interrupt_says_what_is_stored() -> None:
    """And ends a command as Ctrl-C does, wherever only that is caught."""
    assert Interrupted().stored == "what was finished is stored"
    assert Interrupted("3 of 4 cells are stored").stored == "3 of 4 cells are stored"
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert not issubclass(Interrupted, Exception)
