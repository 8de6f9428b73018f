"""Reads YAML strictly: plain values only, and no value whose meaning in YAML 1.1 differs from its look."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.regular_file import read_text

__all__ = ["Position", "YamlFile", "open_yaml_file", "read_yaml", "read_yaml_file"]

_MOST_VALUES = 200_000
"""The most commas and lines of a file. PyYAML takes seconds for that many, and no suite can have as many combinations."""

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}

_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*|([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?)")
_SCIENTIFIC = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Loader(yaml.SafeLoader):
    """A loader without dates, since no parameter is one, and without aliases, since an alias can make a value contain itself."""

    # PyYAML looks up the possible tags of a scalar by its first character.
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in tags if tag != _TIMESTAMP]
        for first, tags in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise UserError(f"line {event.start_mark.line + 1}: *{event.anchor} is an alias: write its value out")
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            _require_plain_number(node)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in keys:
                raise UserError(f"line {key.start_mark.line + 1}: '{key.value}' is given twice: give it once")
            keys.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)


def _require_plain_number(node: yaml.ScalarNode) -> None:
    """Rejects a number whose value in YAML 1.1 differs from its look: there, 010 is 8, 1:30 is 90 and 1_0 is 10."""
    text = node.value
    line = f"line {node.start_mark.line + 1}: {text:.80}"
    if node.tag in _NUMBERS and not (_DECIMAL.fullmatch(text) or _NOT_FINITE.fullmatch(text)):
        raise UserError(f"{line} is not a decimal number, and YAML reads it as another value: write digits only")
    if _SCIENTIFIC.fullmatch(text):
        value = float(text)
        digits = re.split("[eE]", text)[0]
        if math.isinf(value) or (value == 0 and re.search("[1-9]", digits)):
            raise UserError(f"{line} is too {'large' if value else 'small'} for a number of 64 bits: give another")


def read_yaml(text: str) -> Any:
    """Parses YAML to numbers, strings, booleans, null, and lists and mappings of them.

    Args:
        text: The YAML text.

    Raises:
        UserError: A key occurs twice, a value is nested too deeply, a number is too long or ambiguous, or there is an
            alias.
        yaml.YAMLError: The text is not YAML.

    >>> read_yaml("{steps: 20, targets: [1, 2]}")
    {'steps': 20, 'targets': [1, 2]}
    """
    return _read(text)[0]


class Position(NamedTuple):
    """A place in a file.

    Attributes:
        path: The file.
        line: From 1 on.
    """

    path: str
    line: int


@dataclass(frozen=True)
class YamlFile:
    """The value of a YAML file, with the lines of its parts.

    Attributes:
        path: The file.
        value: See :func:`read_yaml`.
    """

    path: Path
    value: Any
    _root: yaml.Node | None

    def location(self, *keys: object) -> str:
        """The file and the line of a value, for a message.

        Args:
            *keys: The mapping keys and list positions that lead to the value. Everything after the first missing one is
                ignored.
        """
        mark = _mark(self._root, keys)
        return f"{self.path}, line {mark.line + 1}" if mark is not None else str(self.path)

    def position(self, *keys: object) -> Position:
        """The file and the line of a value, for a machine; see :meth:`location`.

        Args:
            *keys: See :meth:`location`.
        """
        mark = _mark(self._root, keys)
        return Position(str(self.path), 1 if mark is None else mark.line + 1)


def open_yaml_file(path: Path) -> YamlFile:
    """Reads a YAML file and keeps the lines of its values; see :func:`read_yaml`.

    Raises:
        UserError: The file cannot be read, is not UTF-8, is not YAML, has too many values, or violates a condition of
            :func:`read_yaml`.
    """
    try:
        return YamlFile(path, *_read(_bounded(read_text(path))))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    except ValueError:
        raise UserError(f"{path!s:.80} cannot be the name of a file: it has a zero byte in it") from None


def read_yaml_file(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        UserError: See :func:`open_yaml_file`.
    """
    return open_yaml_file(path).value


def _bounded(text: str) -> str:
    """A text, unless it takes too long to parse."""
    if text.count(",") + text.count("\n") > _MOST_VALUES:
        raise UserError(f"it has more than {_MOST_VALUES:,} commas and lines: shorten a list")
    return text


def _read(text: str) -> tuple[Any, yaml.Node | None]:
    """The value of a YAML text, and the root of its nodes."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return (None if node is None else loader.construct_document(node)), node
        finally:
            loader.dispose()
    except RecursionError:
        raise UserError("the value is nested too deeply: give one with fewer brackets inside brackets") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"a number that cannot be read: {str(error).partition(';')[0]}") from None


def _mark(node: yaml.Node | None, keys: tuple[object, ...]) -> yaml.Mark | None:
    """The position of a key or of a list item, or of the last one that exists on the way to it."""
    mark = node.start_mark if node is not None else None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(key)), None)
            if pair is None:
                break
            mark, node = pair[0].start_mark, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            mark = node.start_mark
        else:
            break
    return mark
