"""Parameters whose defaults depend on the usual radius of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from robustbench_cli.core.settings import Settings

__all__ = ["USUAL_RADIUS", "UsualRadiusDefaults"]

USUAL_RADIUS = 8 / 255
"""The radius in linf for unknown data: that of CIFAR-10, and of every data set that names no other."""


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
