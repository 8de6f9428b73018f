"""Launches and synchronizations per step of each attack, and per forward pass of each defense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.defenses import registry as defenses

from .launches import excess, read_table

CASES = [("steps", f"{name} {norm}") for name in attacks.names() for norm in attacks.load(name).norms]
CASES += [("forward", name) for name in defenses.names()]


def test_the_table_has_a_row_for_each() -> None:
    """A row of what is gone would look like a check."""
    assert {(part, name) for part, rows in read_table().items() for name in rows} == {*CASES}


@pytest.mark.parametrize(("part", "name"), CASES)
def test_there_are_no_more_than_before(part: str, name: str, passed: Callable[[str, str], dict[str, Any]]) -> None:
    """``python -m tests.pretended.launches`` writes fewer into the table, so that they stay as few."""
    problems = excess(passed(part, name), read_table()[part][name])
    assert not problems, "\n".join(problems)


def test_an_excess_names_the_lines() -> None:
    """The kinds above their limits come first, then the lines with the most launches, then the waits."""
    figures = {
        "launches": 3.5,
        "kernels": 3.5,
        "synchronizations": 1,
        "most": [(2.0, "attacks/pgd.py:7")],
        "waits": [(1.0, "attacks/pgd.py:9 (item)")],
    }
    assert excess(figures, {"launches": 3.5, "kernels": 4, "synchronizations": 1}) == []
    assert excess(figures, {"launches": 3, "kernels": 4, "synchronizations": 0}) == [
        "launches: 3.5, above the 3 of launches.yaml",
        "synchronizations: 1, above the 0 of launches.yaml",
        "    2.00 launches at attacks/pgd.py:7",
        "    1.00 synchronizations at attacks/pgd.py:9 (item)",
    ]
