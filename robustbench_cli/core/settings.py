"""What attacks and defenses have in common: a frozen, typed config whose fields are its options and documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from robustbench_cli.core.errors import UserError, did_you_mean
from robustbench_cli.core.strict_yaml import read_yaml

__all__ = ["Settings", "read_value"]

_FRACTION = re.compile(r"[0-9]{1,300}/0*[1-9][0-9]{,300}")


class Settings(BaseModel):
    """A method of the literature: its parameters are its fields, each with a type, a default and a description.

    Attributes:
        paper: The source: authors, title, place, arXiv number. Shown by ``advdef show``.
        elsewhere: What is no parameter of the method and is often taken for one: from Python it goes into the call, and
            on the command line it is this option.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    paper: ClassVar[str]
    elsewhere: ClassVar[Mapping[str, str]] = {}

    def __init__(self, *positional: Any, **parameters: Any) -> None:
        """Takes the parameters by name, as numbers, words and lists; a float may be a fraction, ``"2/255"``.

        Raises:
            UserError: A parameter is unknown, missing, or its value is not allowed.
        """
        name = type(self).__name__
        if positional:
            example = next(iter(type(self).model_fields), "name")
            raise UserError(f"{name} takes its parameters by name: give {name}({example}={_shown(positional[0])})")
        _fill(self, parameters, name=name, python=True)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], *, name: str) -> Self:
        """Builds the method from values that a user gave.

        Args:
            parameters: Values by field name, as they are; what was written as words goes through :func:`read_value`
                first.
            name: How the user called the method, for the messages.

        Raises:
            UserError: A parameter is unknown, missing, or its value is not allowed.
        """
        method = cls.__new__(cls)
        _fill(method, parameters, name=name, python=False)
        return method

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValueError:
            kind = type(self).__name__
            raise UserError(
                f"{kind}.{name} cannot be set: give it to a new one, {kind}({name}={_shown(value)})"
            ) from None


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


def _fill(method: Settings, parameters: Mapping[str, Any], *, name: str, python: bool) -> None:
    """Gives a new method its parameters.

    Args:
        method: As ``__new__`` made it.
        parameters: By field name.
        name: What the method is called in a message.
        python: Whether it is called from Python, for what the message says would be right.
    """
    fields = type(method).model_fields
    for key in parameters:
        if key in fields:
            continue
        option = method.elsewhere.get(key)
        if option is None:
            raise UserError(f"{name} has no parameter '{key}': {did_you_mean(key, fields)}")
        word = option.strip("-").replace("-", "_")
        call = f"it goes into the call, as in {name}()(model, images, labels, {word}=...)"
        raise UserError(f"{name} has no parameter '{key}': {call if python else f'give {option}'}")
    try:
        BaseModel.__init__(method, **{key: _plain(value, fields[key].annotation) for key, value in parameters.items()})
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing":
            key = str(first["loc"][0])
            raise UserError(f"{name} needs {name}.{key}: {fields[key].description}") from None
        where = ".".join(str(part) for part in (name, *first["loc"]))
        raise UserError(f"{where} is {_shown(first['input'])}: {_wanted(first, fields)}") from None


def _wanted(error: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    """What would be right, in a user's words where pydantic speaks of Python's types."""
    if error["type"] == "tuple_type" and len(error["loc"]) == 1:
        default = fields[str(error["loc"][0])].default
        return f"give a list, such as {json.dumps(default if isinstance(default, tuple) else [error['input']])}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def _plain(value: Any, annotation: Any) -> Any:
    """A value as pydantic takes it: NumPy's and torch's numbers as Python's, and fractions as floats."""
    if isinstance(value, str) and _FRACTION.fullmatch(value) and float in {annotation, *get_args(annotation)}:
        return float(Fraction(value))
    # Arrays and tensors, without an import of either; models and others have no dimensions.
    if isinstance(getattr(value, "ndim", None), int) and hasattr(value, "tolist"):
        return value.tolist()
    return value


def _shown(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 80 else f"{words[:79]}…"
