from __future__ import annotations

from functools import cached_property

import pytest
from pydantic import ValidationError

from robustbench_cli.core.frozen_model import FrozenModel


class Square(FrozenModel):
    """Data from which something is computed."""

    side: int

    @cached_property
    def area(self) -> int:
        return self.side**2


def test_a_copy_computes_its_own_properties() -> None:
    """Of its new values; the original keeps what it has computed."""
    square = Square(side=2)
    assert square.area == 4
    assert square.model_copy(update={"side": 3}).area == 9
    assert square.area == 4


def test_a_computed_property_is_no_data() -> None:
    """It changes neither what is stored nor what is equal."""
    square = Square(side=2)
    assert square.area == 4
    assert square.model_dump() == {"side": 2}
    assert square == Square(side=2)
    assert Square.model_validate_json(square.model_dump_json()) == square


def test_it_is_frozen_and_takes_no_other_field() -> None:
    """A cached value of changed data would be wrong."""
    with pytest.raises(ValidationError, match="frozen"):
        Square(side=2).side = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="other"):
        Square.model_validate({"side": 2, "other": 1})
