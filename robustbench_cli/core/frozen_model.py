"""A frozen pydantic model that may have cached properties."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

__all__ = ["FrozenModel", "share_field_names"]


class FrozenModel(BaseModel):
    """Plain data. What a subclass computes from it, it may keep as a ``functools.cached_property``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values in some fields, which computes its cached properties anew."""
        copied = super().model_copy(update=update, deep=deep)
        fields = type(self).model_fields
        # Pydantic copies cached properties too. Most copies have none, and there are many.
        if len(copied.__dict__) > len(fields):
            for name in copied.__dict__.keys() - fields.keys():
                del copied.__dict__[name]
        return copied


@lru_cache(maxsize=256)
def _shared(names: frozenset[str]) -> set[str]:
    return set(names)


def share_field_names(model: BaseModel) -> None:
    """Lets frozen models share the set of the fields that they were given, which takes more memory than the values.

    Args:
        model: The model, after its validation.
    """
    object.__setattr__(model, "__pydantic_fields_set__", _shared(frozenset(model.model_fields_set)))
