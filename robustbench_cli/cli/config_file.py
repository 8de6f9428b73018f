"""Reads options by their long names: from the YAML file of ``--config``, and from ``[tool.advdef]`` in ``pyproject.toml``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from robustbench_cli.cli.param_types import SETTING
from robustbench_cli.core.errors import UserError, did_you_mean, one_line

__all__ = ["long_name", "read_config", "read_project"]


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
    options = _options(context)
    content = _mapping_of(path)
    for key in content:
        if str(key).replace("_", "-") not in options:
            raise UserError(f"{path}: unknown key '{key}': {did_you_mean(str(key).replace('_', '-'), options)}")
    context.default_map = {**(context.default_map or {}), **_values(context, content, str(path))}


def read_project(context: click.Context) -> None:
    """Makes ``[tool.advdef]`` of the nearest ``pyproject.toml`` that has it the defaults of the command's options.

    Its keys are options of any command; a table ``[tool.advdef.sweep]`` is for one command, and comes before them. Paths are
    relative to the folder of the file. Results and outputs stay inside it, since the file may be another's.

    Args:
        context: The command's context.

    Raises:
        UserError: A file on the way cannot be read, a key is one of no command, a value is not allowed, or an output is
            outside the folder.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        path = folder / "pyproject.toml"
        table = _advdef_table(path) if path.is_file() else None
        if table is not None:
            context.default_map = _project_values(context, table, path)
            return


def _advdef_table(path: Path) -> dict[str, Any] | None:
    """The table ``[tool.advdef]`` of a file; ``None`` without one."""
    import tomllib

    try:
        with path.open("rb") as file:
            table = tomllib.load(file).get("tool", {}).get("advdef")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: not TOML: {one_line(error)}") from None
    if table is not None and not isinstance(table, dict):
        raise UserError(f"{path}: tool.advdef is {_as_written(table)}: give a table of options, such as seed = 1")
    return table


def _project_values(context: click.Context, table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The defaults that a table sets for the running command."""
    commands = _commands(context)
    where = f"{path}: tool.advdef"
    options = _options(context)
    # "store" is a command and an option.
    shared = {key: value for key, value in table.items() if key not in commands or not isinstance(value, dict)}
    unknown = [key for key in shared if key.replace("_", "-") not in options]
    # The commands are imported only for a key that the running one does not know.
    known = {name: None for command in commands for name in _options_of(context, command)} if unknown else {}
    for key in unknown:
        if key in commands and key not in known:
            raise UserError(f"{where}: {key} is {_as_written(table[key])}: give a table of options of 'advdef {key}'")
        if key.replace("_", "-") not in known:
            raise UserError(f"{where}: unknown key '{key}': {did_you_mean(key.replace('_', '-'), [*known, *commands])}")
    shared = {key: value for key, value in shared.items() if key not in unknown}
    values = _values(context, shared, where, folder=path.parent)
    name = context.info_name or ""
    own = table.get(name, {}) if name in commands and name not in shared else {}
    for key in own:
        if key.replace("_", "-") not in options:
            raise UserError(f"{where}.{name}: unknown key '{key}': {did_you_mean(key.replace('_', '-'), options)}")
    return values | _values(context, own, f"{where}.{name}", folder=path.parent)


def _commands(context: click.Context) -> list[str]:
    group = None if context.parent is None else context.parent.command
    return group.list_commands(context) if isinstance(group, click.Group) else []


def _options_of(context: click.Context, name: str) -> list[str]:
    """The options of another command."""
    assert context.parent is not None
    assert isinstance(context.parent.command, click.Group)
    command = context.parent.command.get_command(context.parent, name)
    return [] if command is None else [long_name(parameter) for parameter in command.params]


def _options(context: click.Context) -> dict[str, click.Parameter]:
    """The options that a file may set, by their long names."""
    return {long_name(entry): entry for entry in context.command.params if entry.name != "config"}


def _values(
    context: click.Context, content: Mapping[Any, Any], where: str, *, folder: Path | None = None
) -> dict[str, Any]:
    """The values of a file by parameter; every one is checked.

    Args:
        context: The command's context.
        content: The values by the names of options.
        where: The file, for messages.
        folder: What paths are relative to, if not to the current folder.
    """
    options = _options(context)
    values: dict[str, Any] = {}
    for written, value in content.items():
        key = str(written).replace("_", "-")
        option = options[key]
        assert option.name is not None
        if option.name in values:
            raise UserError(f"{where}: {written}: '{key}' is given twice, with '_' and with '-': give it once")
        try:
            arguments = _arguments(option, value)
            if folder is not None:
                _require_inside(key, arguments, folder)
                arguments = _in_folder(option, arguments, folder) if folder != Path.cwd() else arguments
            values[option.name] = arguments
            option.type_cast_value(context, arguments)
        except click.BadParameter as error:
            raise UserError(f"{where}: {written}: {error.message.rstrip('.')}") from None
        except UserError as error:
            raise UserError(f"{where}: {written}: {error}") from None
    return values


_FILE_NAME = re.compile(r".+\.(ya?ml|csv|py:.+)", re.DOTALL)
"""A suite or a table, or an attack, defense, model or data set in a file of the user."""


_WRITTEN = {"output", "plots", "save-images", "store", "stores"}
"""The options of files and folders that a command writes. A folder of data sets is read: only published ones are downloaded to it."""

_LOCAL_TRACKER = "tensorboard:"
"""What the tracker that writes to a folder begins with."""


def _require_inside(key: str, arguments: Any, folder: Path) -> None:
    """Makes sure that a command writes its results and outputs inside a project's folder.

    Args:
        key: The name of the option.
        arguments: Its values.
        folder: The folder.

    Raises:
        UserError: An output is outside, also by a link, or a tracker is not one of a folder.
    """
    if key not in {*_WRITTEN, "to"}:
        return
    own = "or give it on the command line"
    for text in arguments if isinstance(arguments, list) else [arguments]:
        if key == "to" and not text.startswith(_LOCAL_TRACKER):
            raise UserError(f"{text!r} may send results away: give tensorboard:DIR, {own}")
        try:
            path = (folder / text.removeprefix(_LOCAL_TRACKER if key == "to" else "")).resolve()
            inside = path.is_relative_to(folder.resolve())
        except (OSError, RuntimeError):
            # A circle of links.
            inside = False
        if not inside:
            raise UserError(f"{text!r} is outside the project's folder: give a path inside it, {own}")


def _in_folder(option: click.Parameter, arguments: Any, folder: Path) -> Any:
    """Arguments whose paths are relative to a folder."""
    if isinstance(arguments, list):
        return [_in_folder(option, argument, folder) for argument in arguments]
    if long_name(option) == "to" and arguments.startswith(_LOCAL_TRACKER):
        return f"{_LOCAL_TRACKER}{folder / arguments.removeprefix(_LOCAL_TRACKER)}"
    is_path = isinstance(option.type, click.Path) or (isinstance(arguments, str) and _FILE_NAME.fullmatch(arguments))
    return str(folder / arguments) if is_path else arguments


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
            # TOML reads pgd.steps = 100 as a table of a table.
            flat = {
                name: entry
                for key, setting in value.items()
                for name, entry in (
                    {f"{key}.{inner}": entry for inner, entry in setting.items()}
                    if isinstance(setting, dict)
                    else {key: setting}
                ).items()
            }
            return [f"{key}={_as_written(setting)}" for key, setting in flat.items()]
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
