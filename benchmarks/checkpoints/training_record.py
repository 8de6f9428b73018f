"""Checks the record of a training in a checkpoint, which may come from anywhere."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["checked_record"]

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Network(BaseModel):
    """What is read of the training of one network."""

    model_config = ConfigDict(strict=True)

    seconds: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
    kept_epoch: Annotated[float, Field(ge=1, le=1e12, allow_inf_nan=False)] | None = None
    weights: dict[
        Literal["latest", "averaged", "best"], dict[Literal["held_out_clean", "held_out_robust"], _Share]
    ] = {}

    @model_validator(mode="after")
    def _best_has_an_epoch(self) -> Self:
        if "best" in self.weights and self.kept_epoch is None:
            raise ValueError("the best weights have no kept_epoch")
        return self


class _Stage(BaseModel):
    model_config = ConfigDict(strict=True)

    trained: dict[str, _Network]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True)

    stages: list[_Stage] = []


def checked_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a training, unchanged; what nobody reads may be anything.

    Args:
        record: As in the metadata of a checkpoint.

    Returns:
        The same dictionary.

    Raises:
        PydanticCustomError: Its stages are not as a training writes them.
    """
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].partition(" or instance of ")[0].removeprefix("Value error, ")
        # Unlike the message of a ValueError, this one gets no prefix.
        raise PydanticCustomError("training_record", "{reason}", {"reason": f"{place:.200}: {reason}"}) from None
    return record
