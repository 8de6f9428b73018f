"""Radii that are probably a mistake, with what was probably meant."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from robustbench_cli.attacks.base.eps import Eps
from robustbench_cli.attacks.base.norm import Norm

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.suites.config import SuiteConfig

__all__ = ["USUAL", "UsualRadii", "unusual_radius"]


class UsualRadii(NamedTuple):
    """The radii of the literature in a norm, from digits of 8 x 8 to photographs of 224 x 224.

    Attributes:
        smallest: On the [0, 1] pixel scale.
        largest: On the same scale.
        example: The most frequent one, as it is written.
    """

    smallest: float
    largest: float
    example: str

    def __contains__(self, eps: object) -> bool:
        return isinstance(eps, float) and self.smallest <= eps <= self.largest


USUAL: Mapping[Norm, UsualRadii] = {
    "linf": UsualRadii(0, 0.3, "8/255"),
    "l2": UsualRadii(0.1, 30, "0.5"),
    "l1": UsualRadii(0.1, math.inf, "12"),
    "l0": UsualRadii(1, math.inf, "24"),
}


def unusual_radius(config: SuiteConfig, norms: Collection[Norm]) -> str:
    """The first radius of a suite that is probably a mistake, in one line; empty where there is none.

    A radius of 0 among others begins a curve, and is no mistake.

    Args:
        config: The suite.
        norms: Those in which its attacks run.
    """
    radii = config.eps or ()
    if radii and all(eps.value == 0 for eps in radii):
        return f"{config.prefix('eps', 0)}eps is 0: nothing is attacked, and the robust accuracy is the clean one"
    for number, eps in enumerate(radii):
        for norm in norms:
            if eps.value != 0 and eps.value not in USUAL[norm]:
                return f"{config.prefix('eps', number)}{_doubt(eps, norm)}"
    return ""


def _doubt(eps: Eps, norm: Norm) -> str:
    """What is unusual about a radius, and what was probably meant."""
    usual = USUAL[norm]
    size = "large" if eps.value > usual.largest else "small"
    numerator = eps.text.partition("/")[0].strip()
    if size == "large" and numerator.isdecimal() and int(numerator) / 255 in usual:
        meant = f"{numerator}/255"
    else:
        other: Norm = "l2" if norm == "linf" else "linf"
        meant = usual.example + (f" or the norm {other}" if eps.value in USUAL[other] else "")
    return f"eps {eps.text} is unusually {size} in {norm}: was {meant} meant?"
