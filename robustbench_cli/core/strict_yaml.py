"""YAML as a user writes it: plain values only, and nothing that would be read otherwise than it looks."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from robustbench_cli.core.errors import UserError

__all__ = ["YamlFile", "open_yaml_file", "read_yaml", "read_yaml_file"]

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}

_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*|([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?)")
_SCIENTIFIC = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Loader(yaml.SafeLoader):
    """Without dates, which no parameter is, and without aliases, which can make a value hold itself."""

    # PyYAML picks by a scalar's first character the tags that it may have.
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in tags if tag != _TIMESTAMP]
        for first, tags in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise UserError(
                f"line {event.start_mark.line + 1}: *{event.anchor} is an alias: write out what it stands for"
            )
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            _require_plain_number(node)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise UserError(f"line {key.start_mark.line + 1}: '{key.value}' is given twice: give it once")
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)


def _require_plain_number(node: yaml.ScalarNode) -> None:
    """Refuses a number that YAML 1.1 reads otherwise than it looks: 010 is 8 there, 1:30 is 90 and 1_0 is 10."""
    written = node.value
    line = f"line {node.start_mark.line + 1}: {written:.80}"
    if node.tag in _NUMBERS and not (_DECIMAL.fullmatch(written) or _NOT_FINITE.fullmatch(written)):
        raise UserError(f"{line} is not written as a decimal number, and YAML reads it as another: write digits alone")
    if _SCIENTIFIC.fullmatch(written):
        value = float(written)
        digits = re.split("[eE]", written)[0]
        if math.isinf(value) or (value == 0 and re.search("[1-9]", digits)):
            raise UserError(f"{line} is too {'large' if value else 'small'} for a number of 64 bits: give another")


def read_yaml(text: str) -> Any:
    """The value that YAML stands for: numbers, strings, booleans, null, lists and mappings of them.

    Raises:
        UserError: A key is given twice, a value is nested too deeply, a number is too long or looks like another, or
            there is an alias.
        yaml.YAMLError: It is not YAML.
    """
    return _read(text)[0]


@dataclass(frozen=True)
class YamlFile:
    """What a YAML file stands for, and where in it.

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
            *keys: The keys and the positions in lists that lead to it; what follows one that is not there is of no
                account.
        """
        found = _mark(self._root, keys)
        return f"{self.path}, line {found.line + 1}" if found is not None else str(self.path)


def open_yaml_file(path: Path) -> YamlFile:
    """Reads a YAML file whose values can be found again by their lines; see :func:`read_yaml`.

    Raises:
        UserError: It cannot be read, or is not UTF-8, or is not YAML.
    """
    try:
        return YamlFile(path, *_read(path.read_text(encoding="utf-8")))
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
    """The value that a YAML file stands for; see :func:`open_yaml_file`.

    Raises:
        UserError: As there.
    """
    return open_yaml_file(path).value


def _read(text: str) -> tuple[Any, yaml.Node | None]:
    """The value of a text, and the nodes that it was made of."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return (None if node is None else loader.construct_document(node)), node
        finally:
            loader.dispose()
    except RecursionError:
        raise UserError("brackets inside brackets, too many to read: give a value that is nested less deeply") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"a number that cannot be read: {str(error).partition(';')[0]}") from None


def _mark(node: yaml.Node | None, keys: tuple[object, ...]) -> yaml.Mark | None:
    """Where a key stands, or an item of a list; or what leads there."""
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
