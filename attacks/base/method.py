"""What attacks and defenses have in common: a frozen, typed config whose fields are its options and documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from robustbench_cli.attacks.base.errors import UserError, did_you_mean
from robustbench_cli.attacks.base.plain_yaml import read_yaml

__all__ = ["Method", "read_value"]

_FRACTION = re.compile(r"[0-9]{1,300}/0*[1-9][0-9]{,300}")


class Method(BaseModel):
    """A method of the literature: its parameters are its fields, each with a type, a default and a description.

    Attributes:
        paper: The source: authors, title, place, arXiv number. Shown by ``advdef show``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    paper: ClassVar[str]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], *, name: str) -> Self:
        """Builds the method from values that a user gave.

        Args:
            parameters: Values by field name, as they are; what was written as words goes through :func:`read_value`
                first.
            name: How the user called the method, for the messages.

        Raises:
            UserError: A parameter is unknown or its value is not allowed.
        """
        for key in parameters:
            if key not in cls.model_fields:
                raise UserError(f"{name} has no parameter '{key}': {did_you_mean(key, cls.model_fields)}")
        try:
            return cls(**parameters)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "missing":
                key = str(first["loc"][0])
                raise UserError(f"{name} needs {name}.{key}: {cls.model_fields[key].description}") from None
            where = ".".join(str(part) for part in (name, *first["loc"]))
            raise UserError(f"{where} is {_shown(first['input'])}: {cls._wanted(first)}") from None

    @classmethod
    def _wanted(cls, error: ErrorDetails) -> str:
        """What would be right, in a user's words where pydantic speaks of Python's types."""
        if error["type"] == "tuple_type" and len(error["loc"]) == 1:
            default = cls.model_fields[str(error["loc"][0])].default
            return f"give a list, such as {json.dumps(default if isinstance(default, tuple) else [error['input']])}"
        message = error["msg"].removeprefix("Value error, ")
        return f"{message[:1].lower()}{message[1:]}"


def read_value(words: str) -> Any:
    """A value as ``--set`` gives it: YAML, ``[5, 5]``, or a fraction, ``2/255``; a string where it is neither.

    Raises:
        UserError: It is YAML that is not to be read; see :func:`~.plain_yaml.read_yaml`.
    """
    if _FRACTION.fullmatch(words):
        return float(Fraction(words))
    try:
        return read_yaml(words)
    except yaml.YAMLError:
        return words


def _shown(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 80 else f"{words[:79]}…"
