"""Reads the file of ``--config``: options by their long names, in YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from robustbench_cli.cli.param_types import SETTING
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["long_name", "read_config"]


def long_name(option: click.Parameter) -> str:
    """The name of an option in a file: ``data-dir`` for ``--data-dir``; for an argument its own name."""
    return next((name.removeprefix("--") for name in option.opts if name.startswith("--")), option.name or "")


def read_config(context: click.Context, config: click.Parameter, path: Path | None) -> None:
    """Makes the file's values the defaults of the command's options.

    Click would ignore an unknown key, read 1.5 as the integer 1, and split a word into letters where an option may be
    given several times. So every value is checked here.

    Args:
        context: The command's context.
        config: The option ``--config`` itself.
        path: Its value.

    Raises:
        UserError: The file cannot be read, a key is unknown, or a value is not allowed.
    """
    if path is None:
        return
    options = {long_name(entry): entry for entry in context.command.params if entry is not config}
    values: dict[str, Any] = {}
    for written, value in _mapping_of(path).items():
        key = str(written).replace("_", "-")
        if key not in options:
            raise UserError(f"{path}: unknown key '{written}': {did_you_mean(key, options)}")
        option = options[key]
        assert option.name is not None
        if option.name in values:
            raise UserError(f"{path}: {written}: '{key}' is given twice, with '_' and with '-': give it once")
        try:
            values[option.name] = _arguments(option, value)
            option.type_cast_value(context, values[option.name])
        except click.BadParameter as error:
            raise UserError(f"{path}: {written}: {error.message.rstrip('.')}") from None
        except UserError as error:
            raise UserError(f"{path}: {written}: {error}") from None
    context.default_map = values


def _mapping_of(path: Path) -> dict[Any, Any]:
    from robustbench_cli.core.strict_yaml import read_yaml_file

    content = read_yaml_file(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: give a mapping of options, such as 'seed: 1', not a {type(content).__name__}")
    return content


def _arguments(option: click.Parameter, value: Any) -> Any:
    """A value of the file as the command line would give it."""
    if isinstance(option, click.Option) and option.is_flag:
        if not isinstance(value, bool):
            raise UserError(f"is {_as_written(value)}: give true or false")
        return value
    if option.multiple or option.nargs != 1:
        if isinstance(value, dict) and option.type is SETTING:
            return [f"{key}={_as_written(setting)}" for key, setting in value.items()]
        return [_argument(entry) for entry in (value if isinstance(value, list) else [value])]
    return _argument(value)


def _argument(value: Any) -> str:
    if value is None or isinstance(value, list | dict):
        raise UserError(f"is {_as_written(value)}: give one value")
    return _as_written(value)


def _as_written(value: Any) -> str:
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"is {value!r}, which has a zero byte in it: leave it out")
    return value if isinstance(value, str) else json.dumps(value, default=str)
