from __future__ import annotations

import pytest

from robustbench_cli.attacks.base.eps import Eps, parse_eps
from robustbench_cli.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), (" 0.5 ", 0.5), ("1e-3", 1e-3), (".5/2", 0.25), ("0", 0.0), ("3.", 3.0)]
)
def test_numbers_and_fractions_are_parsed(text: str, value: float) -> None:
    """The value is that of Python's own division, and the text stays as the user wrote it."""
    assert parse_eps(text) == Eps(text.strip(), value)


def test_minus_zero_is_zero() -> None:
    """It has the same sign bit, and so the same cell hash."""
    assert str(parse_eps("-0").value) == "0.0"


@pytest.mark.parametrize(
    "text", ["", "a", "1/0", "1_0", "0x1", "\u0661", "1/2/3", "--1", "nan", "inf", "-1", "1e999", "1e-999"]
)
def test_what_is_no_radius_is_one_line(text: str) -> None:
    """Also what Python's float() accepts and a reader may misread."""
    with pytest.raises(UserError, match=r"^eps is ") as error:
        parse_eps(text)
    assert "\n" not in str(error.value)
