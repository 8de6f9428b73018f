"""Parses the radius of a threat model, and keeps the text in which the user wrote it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from robustbench_cli.core.errors import UserError

__all__ = ["Eps", "parse_eps"]


@dataclass(frozen=True)
class Eps:
    """A radius on the [0, 1] pixel scale.

    Attributes:
        text: The radius as the user wrote it, such as ``8/255``.
        value: The same radius as a number.
    """

    text: str
    value: float


def parse_eps(text: str) -> Eps:
    """Parses a radius >= 0 on the [0, 1] pixel scale, given as a decimal number or a fraction.

    Args:
        text: For example ``0.03`` or ``8/255``.

    Returns:
        The text without surrounding spaces, and its value.

    Raises:
        UserError: The text is not a number, or the number is infinite or negative.

    >>> parse_eps("1/4")
    Eps(text='1/4', value=0.25)
    >>> parse_eps(" 0.03 ")
    Eps(text='0.03', value=0.03)
    >>> parse_eps("8/0")
    Traceback (most recent call last):
    ...
    robustbench_cli.core.errors.UserError: eps is '8/0': give a number or a fraction, such as 0.03 or 8/255
    """
    stripped = str(text).strip()
    numerator, slash, denominator = stripped.partition("/")
    try:
        value = _parse_decimal(numerator) / (_parse_decimal(denominator) if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"eps is '{stripped}': give a number or a fraction, such as 0.03 or 8/255") from None
    if not math.isfinite(value) or value < 0:
        raise UserError(f"eps is '{stripped}': it must be 0 or more, and finite")
    if value == 0 and re.search("[1-9]", re.split("[eE]", numerator)[0]):
        raise UserError(f"eps is '{stripped}': that is too small for a number, give 0 or a larger one")
    # -0.0 would give the cell another hash than 0.0.
    return Eps(stripped, abs(value))


def _parse_decimal(text: str) -> float:
    """Parses a decimal number of ASCII digits; Python's own float() also accepts 1_0 and other scripts' digits."""
    if not re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*|nan|inf", text):
        raise ValueError(text)
    return float(text)
