"""YAML as a user writes it: plain values only, and nothing that would be read otherwise than it looks."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from robustbench_cli.attacks.base.errors import UserError

__all__ = ["read_yaml", "read_yaml_file"]

_TIMESTAMP = "tag:yaml.org,2002:timestamp"


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
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise UserError(f"line {key.start_mark.line + 1}: '{key.value}' is given twice: give it once")
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)


def read_yaml(text: str) -> Any:
    """The value that YAML stands for: numbers, strings, booleans, null, lists and mappings of them.

    Raises:
        UserError: A key is given twice, a value is nested too deeply or is too long a number, or there is an alias.
        yaml.YAMLError: It is not YAML.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - derives from the safe one
    except RecursionError:
        raise UserError("brackets inside brackets, too many to read: give a value that is nested less deeply") from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"a number that cannot be read: {str(error).partition(';')[0]}") from None


def read_yaml_file(path: Path) -> Any:
    """The value that a YAML file stands for; see :func:`read_yaml`.

    Raises:
        UserError: It cannot be read, or is not UTF-8, or is not YAML.
    """
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
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
