"""Parameters that follow from the usual radius of the data where the user has not set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from robustbench_cli.core.settings import Settings

__all__ = ["USUAL_RADIUS", "UsualRadiusDefaults"]

USUAL_RADIUS = 8 / 255
"""In linf, where nothing is known of the data: that of CIFAR-10, and of every data set that names no other."""


class UsualRadiusDefaults(Settings):
    """A method with parameters that are ``None`` until they follow from the data set's usual radius in linf.

    A subclass names such parameters in :attr:`follows`, gives them ``None`` as their default, says so in their
    descriptions, and reads them with :meth:`value`.

    Attributes:
        follows: The parameters, and what share of the usual radius each is.
    """

    follows: ClassVar[Mapping[str, float]] = {}

    def usual(self, radius: float) -> dict[str, float]:
        """What the following parameters are where they are not given.

        Args:
            radius: The data set's usual radius in linf.
        """
        return {name: share * radius for name, share in self.follows.items()}

    def for_radius(self, radius: float) -> Self:
        """The method for data of a usual radius: what was not given has its number, what was given stays.

        Args:
            radius: The data set's usual radius in linf.
        """
        missing = {name: value for name, value in self.usual(radius).items() if getattr(self, name) is None}
        return type(self)(**{**dict(self), **missing}) if missing else self

    def value(self, name: str) -> float:
        """The number of a following parameter: as given, or as it follows from :data:`USUAL_RADIUS`."""
        given: float | None = getattr(self, name)
        return self.usual(USUAL_RADIUS)[name] if given is None else given
