"""Reads suites: those that come with the project, a YAML file each in this folder, and a user's own files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.benchmarks.suites.config import (
    CONDITIONS,
    AttackEntry,
    AttackGroup,
    DefenseConfig,
    ModelConfig,
    SuiteConfig,
    _Entry,
)
from robustbench_cli.core.errors import UserError, did_you_mean
from robustbench_cli.core.strict_yaml import YamlFile, open_yaml_file

__all__ = ["read_suite", "suite_names"]

_FOLDER = Path(__file__).parent / "builtin"


def suite_names() -> list[str]:
    """The names of the suites that come with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_suite(name: str) -> SuiteConfig:
    """Reads a suite, with what it takes from others in its place.

    Args:
        name: One of :func:`suite_names`, or the path of a ``.yaml`` file. A file's own ``extends`` and ``suite`` start
            from its folder.

    Raises:
        UserError: There is no such suite, or it is not what it must be.
    """
    return _read(name, Path(), ())


def _read(name: str, folder: Path, within: tuple[Path, ...]) -> SuiteConfig:
    path = folder / name if name.endswith((".yaml", ".yml")) else _FOLDER / f"{name}.yaml"
    if path.parent == _FOLDER and path.stem not in suite_names():
        raise UserError(
            f"unknown suite '{name}': {did_you_mean(name, suite_names(), kind='suite')} (or give the path of a .yaml file)"
        )
    file = open_yaml_file(path)
    # One file has many paths.
    if any(path.samefile(each) for each in within):
        raise UserError(f"the suite {path} contains itself: {' > '.join(map(str, (*within, path)))}")
    words = _words_of(file)
    base = None
    if words.extends is not None:
        base = _inner(words.extends, file.location("extends"), (*within, path))
        own = {key: getattr(words, key) for key in words.model_fields_set - {"extends"}}
        words = base.model_copy(update=own)
    return words.read_from(file, base, _groups(words, base, file, (*within, path)))


def _inner(name: str, place: str, within: tuple[Path, ...]) -> SuiteConfig:
    try:
        return _read(name, within[-1].parent, within)
    except UserError as error:
        # What is wrong inside another file says so itself.
        raise error if ", line " in str(error) else UserError(f"{place}: {error}") from None


def _words_of(file: YamlFile) -> SuiteConfig:
    """A file's own words."""
    if not isinstance(file.value, dict):
        raise UserError(f"{file.path} holds no suite: give 'attacks: [pgd, cw]'")
    for key in file.value:
        if key not in SuiteConfig.model_fields:
            raise UserError(
                f"{file.location(key)}: unknown key '{key}': {did_you_mean(str(key), SuiteConfig.model_fields)}"
            )
    try:
        words = SuiteConfig.model_validate(file.value)
    except ValidationError as error:
        raise _refused(file, error.errors()) from None
    for key in ("include", "exclude"):
        for number, condition in enumerate(getattr(words, key)):
            for word, values in condition.items():
                place = file.location(key, number, word)
                if word not in CONDITIONS:
                    raise UserError(f"{place}: {key} knows no '{word}': {did_you_mean(word, CONDITIONS)}")
                try:
                    for radius in values if word == "eps" else ():
                        if radius is not None:
                            parse_eps(radius)
                except UserError as error:
                    raise UserError(f"{place}: {key}: {error}") from None
    defenses = [
        tuple(_placed(each, file, len(chain), ("defenses", number, place)) for place, each in enumerate(chain))
        for number, chain in enumerate(words.defenses)
    ]
    return words.model_copy(update={"defenses": tuple(defenses)} if "defenses" in words.model_fields_set else {})


def _placed(words: DefenseConfig, file: YamlFile, length: int, keys: tuple[str, int, int]) -> DefenseConfig:
    error_location = words.at(file.location(*(keys if length > 1 else keys[:2])))
    if (words.name is None) == (words.checkpoint is None):
        raise UserError(
            f"{error_location.place}: a defense needs a name or a checkpoint, and not both: {{name: hrs, channels: [5, 5]}}"
        )
    if words.checkpoint is not None and words.model_extra:
        key = next(iter(words.model_extra))
        known = [each for each in DefenseConfig.model_fields if each != "name"]
        raise UserError(f"{error_location.place}: a checkpoint has no '{key}': {did_you_mean(key, known)}")
    if words.checkpoint is not None and keys[2] > 0:
        raise UserError(f"{error_location.place}: a checkpoint goes first: defenses are put around it in order")
    return error_location


def _groups(
    words: SuiteConfig, base: SuiteConfig | None, file: YamlFile, within: tuple[Path, ...]
) -> tuple[AttackGroup, ...]:
    """The groups of a suite; see :attr:`SuiteConfig.groups`."""
    changed = {key: file.value[key] for key in ("cascade", "accounting") if key in file.value}
    if "attacks" not in file.value:
        return tuple(group.model_copy(update=changed) for group in base.groups) if base is not None else ()
    own = AttackGroup.model_construct(attacks=(), cascade=words.cascade, accounting=words.accounting)
    groups = [own]
    for number, entry in enumerate(words.attacks):
        place = file.location("attacks", number)
        if (entry.name is None) == (entry.suite is None) or (
            entry.suite is not None and len(entry.model_dump(exclude_unset=True)) > 1
        ):
            raise UserError(
                f"{place}: an entry of attacks needs a name or a suite, and not both: {{name: pgd, steps: 20}} or {{suite: quick}}"
            )
        if entry.suite is None:
            if entry.only_if is not None and (not words.cascade or not groups[0].attacks):
                raise UserError(
                    f"{place}: only_if: the condition is one on the attacks before it in a cascade: "
                    + ("put some before it" if words.cascade else "add 'cascade: true', or leave it out")
                )
            members = tuple(_members(entry, place))
            groups[0] = groups[0].model_copy(update={"attacks": (*groups[0].attacks, *members)})
            continue
        inner = _inner(entry.suite, place, within)
        inner.require_attacks_only(entry.suite)
        for group in inner.groups:
            if words.cascade and group.accounting == words.accounting:
                groups[0] = groups[0].model_copy(update={"attacks": (*groups[0].attacks, *group.attacks)})
            else:
                groups.append(group.model_copy(update={"any_norm": True}))
    return tuple(group for group in groups if group.attacks)


def _members(entry: _Entry, place: str) -> Iterator[AttackEntry]:
    for eot in entry.eot:
        yield AttackEntry(
            name=entry.name or "", eot=eot, norm=entry.norm, only_if=entry.only_if, **entry.parameters
        ).at(place)


def _refused(file: YamlFile, errors: Sequence[ErrorDetails]) -> UserError:
    """What pydantic says first, in one line that names the file, the line and the nearest right word."""
    error, where = errors[0], _keys(errors[0])
    message = error["msg"].removeprefix("Value error, ")
    message = f"{message[:1].lower()}{message[1:]}"
    if error["type"] == "literal_error":
        message = f"unknown word '{error['input']!s:.80}': {did_you_mean(str(error['input']), _words_in(error))}"
    elif error["type"] in {"model_type", "model_attributes_type"}:
        message = f"is {error['input']!r:.80}: give a name, or a mapping such as {{name: pgd, steps: 20}}"
    elif error["type"] == "dict_type":
        meant = "{epochs: 5, lr: 0.01}" if where[0] == "train" else "{defense: hrs, eps: 8/255}"
        message = f"is {error['input']!r:.80}: give a mapping such as {meant}"
    elif error["type"] == "path_type":
        message = f"is {error['input']!r:.80}: give the path of a file"
    elif error["type"] == "extra_forbidden":
        message = f"unknown key: {did_you_mean(str(where[-1]), ModelConfig.model_fields)}"
    elif error["type"] == "too_short":
        message = "is empty: give at least one value"
    # Where there are words beside numbers, they are another error at the same place.
    for other in errors[1:]:
        if other["type"] == "literal_error" and _keys(other) == where:
            message += f", or one of the words {', '.join(_words_in(other))}"
    return UserError(f"{file.location(*where)}: {'.'.join(map(str, where))}: {' '.join(message.split())}")


def _keys(error: ErrorDetails) -> list[int | str]:
    """Where an error is: keys and places in lists, without the names of types that pydantic puts between them."""
    return [each for each in error["loc"] if not (isinstance(each, str) and re.search(r"[\[\](){}-]", each))]


def _words_in(error: ErrorDetails) -> list[str]:
    """The words that would have been understood."""
    return re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
