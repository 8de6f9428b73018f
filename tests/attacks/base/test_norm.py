from __future__ import annotations

from typing import get_args

from robustbench_cli.attacks.base.norm import NORMS, Norm


def test_the_norms_are_those_of_the_type() -> None:
    """The tuple for loops and the type for checkers agree."""
    assert get_args(Norm) == NORMS
