"""Parameters whose defaults depend on the usual radius of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.core.settings import Settings

__all__ = ["USUAL_RADIUS", "UsualRadiusDefaults", "usual_radius_in"]

USUAL_RADIUS = 8 / 255
"""The radius in linf for unknown data: that of CIFAR-10, and of every data set that names no other."""

_IN_OTHER_NORMS: Mapping[float, Mapping[str, float]] = {
    8 / 255: {"l2": 0.5, "l1": 12},
    4 / 255: {"l2": 2, "l1": 255},
    0.15: {"l2": 0.5, "l1": 1.5},
}
"""The radii in l2 and l1 beside a radius in linf: for CIFAR-10, ImageNet and the digits of 8 x 8 pixels."""

_OF_MNIST = {"linf": 0.3, "l2": 2, "l1": 10}


def usual_radius_in(norm: Norm, radius: float) -> float:
    """The usual radius in a norm, for data with a usual radius in linf.

    In l2 and l1 these are the radii that the literature uses together: for CIFAR-10 (8/255, 0.5, 12) and MNIST (0.3, 2, 10)
    those of Maini, Wong, Kolter: Adversarial Robustness Against the Union of Multiple Perturbation Models (ICML 2020), for
    ImageNet (4/255, 2, 255) those of Croce, Hein: Adversarial Robustness against Multiple and Single l_p-Threat Models via
    Quick Fine-Tuning of Robust Classifiers (ICML 2022). The embedded digits (0.15, 0.5, 1.5) are not in the literature.
    For any other radius in linf, those of MNIST are scaled in proportion.

    Args:
        norm: linf, l2 or l1.
        radius: The data set's usual radius in linf.

    >>> [usual_radius_in(norm, 8 / 255) for norm in ("l2", "l1")]
    [0.5, 12]
    >>> [round(usual_radius_in(norm, 0.3), 2) for norm in ("linf", "l2", "l1")]
    [0.3, 2.0, 10.0]
    """
    if norm == "linf":
        return radius
    known = _IN_OTHER_NORMS.get(radius)
    return known[norm] if known else radius * _OF_MNIST[norm] / _OF_MNIST["linf"]


class UsualRadiusDefaults(Settings):
    """A method some of whose defaults are multiples of the data set's usual radius in linf.

    A subclass lists such parameters in :attr:`radius_multiples` and gives them the default ``None``. Their descriptions
    state the rule. :meth:`resolved` reads them.

    Attributes:
        radius_multiples: For each such parameter, its default divided by the usual radius.
    """

    radius_multiples: ClassVar[Mapping[str, float]] = {}

    def radius_defaults(self, radius: float) -> dict[str, float]:
        """The defaults of these parameters for data of a usual radius.

        Args:
            radius: The data set's usual radius in linf.
        """
        return {name: multiple * radius for name, multiple in self.radius_multiples.items()}

    def for_radius(self, radius: float) -> Self:
        """The method for data of a usual radius. Parameters that the user has set stay as they are.

        Args:
            radius: The data set's usual radius in linf.
        """
        missing = {name: value for name, value in self.radius_defaults(radius).items() if getattr(self, name) is None}
        return type(self)(**{**dict(self), **missing}) if missing else self

    def resolved(self, name: str) -> float:
        """The value of a parameter: the user's, or the default for :data:`USUAL_RADIUS`.

        Args:
            name: One of the parameters that :meth:`radius_defaults` gives.
        """
        value: float | None = getattr(self, name)
        return self.radius_defaults(USUAL_RADIUS)[name] if value is None else value
