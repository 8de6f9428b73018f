"""What attacks and defenses have in common: a frozen, typed config whose fields are its options and documentation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_cli.attacks.base.errors import UserError, did_you_mean

__all__ = ["Method"]

_FRACTION = re.compile(r"\d+/0*[1-9]\d*")


class Method(BaseModel):
    """A method of the literature: its parameters are its fields, each with a type, a default and a description.

    Attributes:
        paper: The source: authors, title, place, arXiv number. Shown by ``advdef show``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    paper: ClassVar[str]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], *, name: str) -> Self:
        """Builds the method from words that a user wrote.

        Args:
            parameters: Values by field name. A string is read as ``--set`` gives it: as YAML, ``"[5, 5]"``, or as a
                fraction, ``"2/255"``.
            name: How the user called the method, for the messages.

        Raises:
            UserError: A parameter is unknown or its value is not allowed.
        """
        for key in parameters:
            if key not in cls.model_fields:
                raise UserError(f"{name} has no parameter '{key}': {did_you_mean(key, cls.model_fields)}")
        values = {key: _read(value) for key, value in parameters.items()}
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in (name, *first["loc"]))
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{where} is {first['input']!r}: {message[:1].lower()}{message[1:]}") from None

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if _FRACTION.fullmatch(value):
        return float(Fraction(value))
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value
