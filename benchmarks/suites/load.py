"""Reads suites: the built-in ones, one YAML file each in ``builtin/``, and the user's own files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.benchmarks.suites.config import (
    CONDITIONS,
    AttackEntry,
    AttackGroup,
    DefenseConfig,
    FileEntry,
    ModelConfig,
    SuiteConfig,
)
from robustbench_cli.benchmarks.suites.names import BUILTIN, is_file_name, require_known
from robustbench_cli.core.errors import UserError, did_you_mean
from robustbench_cli.core.strict_yaml import YamlFile, open_yaml_file

__all__ = ["read_suite"]


def read_suite(name: str) -> SuiteConfig:
    """Reads a suite and every suite that it extends or names.

    Args:
        name: One of :func:`.names.suite_names`, or the path of a ``.yaml`` file. Paths in a file's ``extends`` and ``suite``
            are relative to its folder.

    Raises:
        UserError: There is no such suite, a key or value is not allowed, or the suite contains itself.
    """
    return _read(name, Path(), ())


def _read(name: str, folder: Path, parents: tuple[Path, ...]) -> SuiteConfig:
    """Reads a suite that the files ``parents`` lead to, outermost first."""
    require_known(name)
    path = folder / name if is_file_name(name) else BUILTIN / f"{name}.yaml"
    file = open_yaml_file(path)
    # Two paths may lead to the same file.
    if any(path.samefile(parent) for parent in parents):
        raise UserError(f"the suite {path} contains itself: {' > '.join(map(str, (*parents, path)))}")
    config = _parsed(file)
    base = None
    if config.extends is not None:
        base = _read_inner(config.extends, file.location("extends"), (*parents, path))
        values = {key: getattr(config, key) for key in config.model_fields_set - {"extends"}}
        config = base.model_copy(update=values)
    return config.read_from(file, base, _groups(config, base, file, (*parents, path)))


def _read_inner(name: str, location: str, parents: tuple[Path, ...]) -> SuiteConfig:
    """Reads a suite that another one names at a location."""
    try:
        return _read(name, parents[-1].parent, parents)
    except UserError as error:
        # An error inside the named file already has a location.
        raise error if ", line " in str(error) else UserError(f"{location}: {error}") from None


def _parsed(file: YamlFile) -> SuiteConfig:
    """The values of one file."""
    if not isinstance(file.value, dict):
        raise UserError(f"{file.path} is not a suite: give 'attacks: [pgd, cw]'")
    for key in file.value:
        if key not in SuiteConfig.model_fields:
            hint = (
                f"it belongs to the model, as in 'model: {{name: ..., {key}: ...}}'"
                if key != "name" and key in ModelConfig.model_fields
                else did_you_mean(str(key), SuiteConfig.model_fields)
            )
            raise UserError(f"{file.location(key)}: unknown key '{key}': {hint}")
    try:
        config = SuiteConfig.model_validate(file.value)
    except ValidationError as error:
        raise _schema_error(file, error.errors()) from None
    for key in ("include", "exclude"):
        for number, condition in enumerate(getattr(config, key)):
            _check_condition(file, key, number, condition)
    if "defenses" not in config.model_fields_set:
        return config
    defenses = tuple(
        tuple(_located_defense(entry, file, chain, (number, index)) for index, entry in enumerate(chain))
        for number, chain in enumerate(config.defenses)
    )
    return config.model_copy(update={"defenses": defenses})


def _check_condition(file: YamlFile, key: str, number: int, condition: dict[str, tuple[object, ...]]) -> None:
    """Makes sure that a condition of ``include`` or ``exclude`` names columns, and that its radii are numbers."""
    for column, values in condition.items():
        location = file.location(key, number, column)
        if column not in CONDITIONS:
            raise UserError(f"{location}: {key}: unknown column '{column}': {did_you_mean(column, CONDITIONS)}")
        try:
            for radius in values if column == "eps" else ():
                if radius is not None:
                    parse_eps(str(radius))
        except UserError as error:
            raise UserError(f"{location}: {key}: {error}") from None


def _located_defense(
    entry: DefenseConfig, file: YamlFile, chain: Sequence[DefenseConfig], keys: tuple[int, int]
) -> DefenseConfig:
    """An entry of ``defenses`` with its file and line, checked."""
    number, index = keys
    entry = entry.at(file.location("defenses", number, index) if len(chain) > 1 else file.location("defenses", number))
    if entry.name is not None and entry.checkpoint is not None:
        raise UserError(
            f"{entry.location}: give a defense either a name or a checkpoint; a defense around a checkpoint is a list of both: "
            f"[{{checkpoint: {entry.checkpoint}}}, {{name: {entry.name}}}]"
        )
    if entry.name is None and entry.checkpoint is None:
        raise UserError(
            f"{entry.location}: give a defense either a name or a checkpoint, as {{name: hrs, channels: [5, 5]}}"
        )
    if entry.checkpoint is not None and entry.model_extra:
        key = next(iter(entry.model_extra))
        fields = [field for field in DefenseConfig.model_fields if field != "name"]
        raise UserError(f"{entry.location}: a checkpoint has no '{key}': {did_you_mean(key, fields)}")
    if entry.checkpoint is not None and index > 0:
        raise UserError(f"{entry.location}: a checkpoint comes first: the defenses after it are put around it in order")
    return entry


def _groups(
    config: SuiteConfig, base: SuiteConfig | None, file: YamlFile, parents: tuple[Path, ...]
) -> tuple[AttackGroup, ...]:
    """The groups of a suite; see :attr:`SuiteConfig.groups`."""
    locate = file.location if base is None or "corruptions" in file.value else base.location
    corruptions = tuple(entry.at(locate("corruptions", number)) for number, entry in enumerate(config.corruptions))
    if "attacks" not in file.value:
        changed = {key: file.value[key] for key in ("cascade", "accounting") if key in file.value}
        changed |= {"corruptions": corruptions} if "corruptions" in file.value else {}
        return tuple(group.model_copy(update=changed) for group in base.groups) if base is not None else ()
    groups = [
        AttackGroup.model_construct(
            attacks=(), cascade=config.cascade, accounting=config.accounting, corruptions=corruptions
        )
    ]

    def add(entries: Sequence[AttackEntry]) -> None:
        groups[0] = groups[0].model_copy(update={"attacks": (*groups[0].attacks, *entries)})

    for number, entry in enumerate(config.attacks):
        location = file.location("attacks", number)
        _check_entry(entry, location, cascade=config.cascade, is_first=not groups[0].attacks)
        if entry.suite is None:
            add(tuple(_attack_entries(entry, location)))
            continue
        inner = _read_inner(entry.suite, location, parents)
        inner.require_attacks_only(entry.suite)
        for group in inner.groups:
            # Images that the outer suite corrupts are those of the suites that it names, unless these corrupt them themselves.
            shared = group.corruptions or corruptions
            if config.cascade and group.accounting == config.accounting and shared == corruptions:
                add(group.attacks)
            else:
                groups.append(group.model_copy(update={"any_norm": True, "corruptions": shared}))
    return tuple(group for group in groups if group.attacks)


def _check_entry(entry: FileEntry, location: str, *, cascade: bool, is_first: bool) -> None:
    """Makes sure that an entry of ``attacks`` is either an attack or a suite, and that ``only_if`` has a cascade."""
    if (entry.name is None) == (entry.suite is None) or (
        entry.suite is not None and len(entry.model_dump(exclude_unset=True)) > 1
    ):
        raise UserError(
            f"{location}: give an attack either a name or a suite, as {{name: pgd, steps: 20}} or {{suite: quick}}"
        )
    if entry.only_if is not None and (not cascade or is_first):
        raise UserError(
            f"{location}: only_if is a condition on earlier attacks of a cascade: "
            + ("put an attack before this one" if cascade else "add 'cascade: true', or leave it out")
        )


def _attack_entries(entry: FileEntry, location: str) -> Iterator[AttackEntry]:
    """An attack for each value of its ``eot``."""
    for eot in entry.eot:
        attack = AttackEntry(name=entry.name or "", eot=eot, norm=entry.norm, only_if=entry.only_if, **entry.parameters)
        yield attack.at(location)


def _schema_error(file: YamlFile, errors: Sequence[ErrorDetails]) -> UserError:
    """The first error of the schema in one line: the file, the line, and the nearest value that is allowed."""
    error, keys = errors[0], _keys(errors[0])
    message = _message(error, keys)
    # Where a name or a number is allowed, the schema reports two errors at the same location.
    for other in errors[1:]:
        if other["type"] == "literal_error" and _keys(other) == keys:
            message += f", or one of {', '.join(_allowed(other))}"
    return UserError(f"{file.location(*keys)}: {'.'.join(_as_written(file.value, keys))}: {' '.join(message.split())}")


def _as_written(value: Any, keys: Sequence[int | str]) -> Iterator[str]:
    """The keys that lead to an error, without the indices that the schema gives to one value where a list may stand."""
    for key in keys:
        if isinstance(key, str):
            yield key
            value = value.get(key) if isinstance(value, dict) else None
        elif isinstance(value, list):
            yield str(key)
            value = value[key]


def _message(error: ErrorDetails, keys: Sequence[int | str]) -> str:
    """An error of the schema in words."""
    value = f"is {error['input']!r:.80}"
    example = "{epochs: 5, lr: 0.01}" if keys[0] == "train" else "{defense: hrs, eps: 8/255}"
    message = error["msg"].removeprefix("Value error, ")
    messages = {
        "model_type": f"{value}: give a name, or a mapping such as {{name: pgd, steps: 20}}",
        "model_attributes_type": f"{value}: give a name, or a mapping such as {{name: pgd, steps: 20}}",
        "dict_type": f"{value}: give a mapping such as {example}",
        "path_type": f"{value}: give the path of a file",
        "too_short": "is empty: give at least one value",
    }
    if error["type"] == "literal_error":
        return f"unknown value '{error['input']!s:.80}': {did_you_mean(str(error['input']), _allowed(error))}"
    if error["type"] == "extra_forbidden" and keys[0] == "model" and keys[-1] == "checkpoint":
        where = f"defenses: [{{checkpoint: {error['input']!s:.80}}}]"
        return f"a checkpoint stands under defenses, as in {where}, and its network here: {{name: net.py:Net}}"
    if error["type"] == "extra_forbidden":
        return f"unknown key: {did_you_mean(str(keys[-1]), ModelConfig.model_fields)}"
    return messages.get(error["type"], f"{message[:1].lower()}{message[1:]}")


def _keys(error: ErrorDetails) -> list[int | str]:
    """The keys and list indices that lead to an error, without the type names that pydantic puts between them."""
    return [key for key in error["loc"] if not (isinstance(key, str) and re.search(r"[\[\](){}-]", key))]


def _allowed(error: ErrorDetails) -> list[str]:
    """The values that would have been allowed."""
    return re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
