"""The radius of a threat model, as a number and as the user wrote it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from robustbench_cli.core.errors import UserError

__all__ = ["Eps", "parse_eps"]


@dataclass(frozen=True)
class Eps:
    """A radius: the number, and the words it was given in (``8/255``)."""

    text: str
    value: float


def parse_eps(text: str) -> Eps:
    """Reads a radius >= 0 on the [0, 1] pixel scale, as a decimal number or a fraction.

    Raises:
        UserError: It is not a number, not finite, or negative.
    """
    words = str(text).strip()
    numerator, slash, denominator = words.partition("/")
    try:
        value = _number(numerator) / (_number(denominator) if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"eps is '{words}': give a number or a fraction, such as 0.03 or 8/255") from None
    if not math.isfinite(value) or value < 0:
        raise UserError(f"eps is '{words}': it must be 0 or more, and finite")
    if value == 0 and re.search("[1-9]", re.split("[eE]", numerator)[0]):
        raise UserError(f"eps is '{words}': that is too small for a number, give 0 or a larger one")
    # Not -0.0, which would be another cell.
    return Eps(words, abs(value))


def _number(words: str) -> float:
    """Reads a decimal number; not 1_0 or other scripts' digits, which Python takes too, and a reader takes for else."""
    if not re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*|nan|inf", words):
        raise ValueError(words)
    return float(words)
