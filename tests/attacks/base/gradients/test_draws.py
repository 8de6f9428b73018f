from __future__ import annotations

from typing import Any

import pytest

from robustbench_cli.attacks.base.gradients.draws import resolve_eot
from robustbench_cli.core.errors import UserError


@pytest.mark.parametrize(
    ("choice", "randomized", "cost", "draws"),
    [
        ("auto", False, None, 1),
        ("exact", False, None, 1),
        (7, False, None, 1),
        ("auto", True, None, 10),
        ("auto", True, 10.0, "exact"),
        ("auto", True, 10.1, 10),
        ("exact", True, 1000.0, "exact"),
        (1, True, 5.0, 1),
    ],
)
def test_gradients_adapt_to_the_model(choice: Any, randomized: bool, cost: float | None, draws: Any) -> None:
    """One draw for a deterministic model; exact where that costs no more than ten draws; what is asked for, if anything."""
    assert resolve_eot(choice, randomized=randomized, cost_of_all_draws=cost) == draws


def test_draws_that_cannot_be_counted_are_not_exact() -> None:
    """``exact`` needs a model that can enumerate its draws."""
    with pytest.raises(UserError, match="eot is exact, and the draws of this model cannot be counted: give a number"):
        resolve_eot("exact", randomized=True, cost_of_all_draws=None)
