"""What attacks and defenses have in common: a frozen, typed config whose fields are its options and documentation."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from robustbench_cli.core.errors import Notice, UserError, did_you_mean
from robustbench_cli.core.strict_yaml import read_yaml

__all__ = ["RenamedParameter", "Settings", "read_value"]

_MOST = 10**9
"""The largest whole number of a parameter: no number of steps, queries or draws beyond it could ever be worked off."""

_LARGEST = 1e38
"""The largest size of another number: models compute in float32, which ends at 3.4e38."""

_FRACTION = re.compile(r"[0-9]{1,300}/0*[1-9][0-9]{,300}")

_warned: set[tuple[str, str]] = set()
"""The method's name and the former parameter name of every rename that this process has warned of."""


class RenamedParameter(Notice):
    """A parameter was set by its former name. The command line prints it as a warning."""


class Settings(BaseModel):
    """The parameters of an attack, a defense or a training: fields with a type, a default and a description.

    A renamed parameter still takes its former name, which its field declares::

        l1_sparsity: float = Field(0.03, description="...", json_schema_extra={"formerly": "moved"})

    ``PGD(moved=0.1)``, ``--set moved=0.1`` and a suite's ``{name: pgd, moved: 0.1}`` then set ``l1_sparsity`` and warn once
    per process. Hashes of cells and of trainings contain the former name, so that a rename changes none of them.

    Attributes:
        paper: The source: authors, title, venue, arXiv number. Shown by ``advdef show``.
        elsewhere: Options that users mistake for parameters, with their command line flags. In Python they are
            arguments of the call.
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

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses a class that declares a field under the former name of an inherited one, which nothing would read.

        Raises:
            UserError: The class declares such a field.
        """
        super().__pydantic_init_subclass__(**kwargs)
        for current, former in cls.former_names().items():
            if former in cls.model_fields:
                raise UserError(f"{cls.__name__}.{former} is now called {current}: rename the field")

    @classmethod
    def former_names(cls) -> dict[str, str]:
        """The renamed parameters: their current names, and the former name of each."""
        extras = {key: field.json_schema_extra for key, field in cls.model_fields.items()}
        return {
            key: str(extra["formerly"])
            for key, extra in extras.items()
            if isinstance(extra, dict) and "formerly" in extra
        }

    @classmethod
    def current_name(cls, key: str) -> str:
        """The current name of a parameter.

        Args:
            key: Its current or former name. Any other text is returned as it is.
        """
        if key in cls.model_fields:
            return key
        return next((current for current, former in cls.former_names().items() if former == key), key)

    @classmethod
    def current_names(cls, parameters: Mapping[str, Any], *, name: str, warn: bool = True) -> dict[str, Any]:
        """Replaces former names of parameters by the current ones.

        Args:
            parameters: Values by current or former name.
            name: The method's name in messages.
            warn: Whether to warn of a former name, once per process. Not for stored data, which no user can change.

        Raises:
            UserError: A parameter is set by both of its names.
        """
        current: dict[str, Any] = {}
        for key, value in parameters.items():
            new = cls.current_name(key)
            if new != key and new in parameters:
                raise UserError(f"{name}.{key} is the former name of {name}.{new}: set only {new}")
            if new != key and warn and (name, key) not in _warned:
                _warned.add((name, key))
                warnings.warn(f"{name}: parameter '{key}' is now called '{new}'", RenamedParameter, stacklevel=4)
            current[new] = value
        return current

    @classmethod
    def by_former_names(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters by the names that they had before they were renamed: for hashes, which a rename must not change.

        Args:
            parameters: Values by current name.
        """
        former = cls.former_names()
        return {former.get(key, key): value for key, value in parameters.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValueError:
            kind = type(self).__name__
            raise UserError(
                f"{kind}.{name} cannot be set: give it to a new one, {kind}({name}={_shown(value)})"
            ) from None


def read_value(text: str) -> Any:
    """A value as ``--set`` gives it: YAML, ``[5, 5]``, or a fraction, ``2/255``; a string where it is neither.

    Raises:
        UserError: It is YAML that is not to be read; see :func:`~.strict_yaml.read_yaml`.
    """
    if _FRACTION.fullmatch(text):
        return float(Fraction(text))
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        return text


def _fill(method: Settings, parameters: Mapping[str, Any], *, name: str, python: bool) -> None:
    """Gives a new method its parameters.

    Args:
        method: As ``__new__`` made it.
        parameters: By field name.
        name: What the method is called in a message.
        python: Whether it is called from Python, for what the message says would be right.
    """
    fields = type(method).model_fields
    parameters = type(method).current_names(parameters, name=name)
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
        if not first["loc"]:
            # The error is about several parameters together.
            raise UserError(f"{name}: {_advice(first, fields)}") from None
        where = ".".join(str(part) for part in (name, *first["loc"]))
        raise UserError(f"{where} is {_shown(first['input'])}: {_advice(first, fields)}") from None
    for key in parameters:
        value = getattr(method, key)
        if isinstance(value, int) and value > _MOST:
            raise UserError(f"{name}.{key} is {_shown(value)}: give at most {_MOST:,}")
        if isinstance(value, float) and abs(value) > _LARGEST:
            raise UserError(f"{name}.{key} is {_shown(value)}: give a number between -{_LARGEST:g} and {_LARGEST:g}")


def _advice(error: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    """What would be right, in a user's words where pydantic speaks of Python's types."""
    if error["type"] == "tuple_type" and len(error["loc"]) == 1:
        default = fields[str(error["loc"][0])].default
        return f"give a list, such as {json.dumps(default if isinstance(default, tuple) and default else [error['input']])}"
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
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
