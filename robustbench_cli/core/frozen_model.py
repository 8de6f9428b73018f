"""A frozen pydantic model that may have cached properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

__all__ = ["FrozenModel"]


class FrozenModel(BaseModel):
    """Plain data. What a subclass computes from it, it may keep as a ``functools.cached_property``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values in some fields, which computes its cached properties anew."""
        copied = super().model_copy(update=update, deep=deep)
        # Pydantic copies cached properties too.
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied
