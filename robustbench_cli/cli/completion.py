"""Names of attacks, defenses, data sets, models and suites on the command line, without an import of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

__all__ = ["NameOf", "complete_names", "complete_shown_name"]

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


class NameOf(click.ParamType[str]):
    """The name of an attack, a suite or the like; an unknown one is refused at once.

    Args:
        kind: One of :data:`~.catalog.KINDS`.
        prefix: What may stand before a name, such as ``eot-``.
    """

    name = "name"

    def __init__(self, kind: str, *, prefix: str = "") -> None:
        self._kind = kind
        self._prefix = prefix
        self._complete = complete_names(kind, prefix=prefix)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checks that the name is known; its options after a ``?`` are checked later.

        Raises:
            UserError: It is not.
        """
        from robustbench_cli.cli.catalog import names, require_known

        text = str(value)
        name = text.partition("?")[0] if self._kind == "dataset" else text
        if self._prefix and name not in names(self._kind):
            name = name.removeprefix(self._prefix)
        require_known(self._kind, name)
        return text

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """See :func:`complete_names`."""
        return self._complete(ctx, param, incomplete)


def complete_names(kind: str, *, prefix: str = "") -> Complete:
    """Makes the ``shell_complete`` of an option that takes a name.

    Args:
        kind: One of :data:`~.catalog.KINDS`.
        prefix: What may stand before a name, such as ``eot-``.

    Returns:
        Completes an incomplete word to names of the kind; to files where no name fits, for users' own code and suites.
    """

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        from robustbench_cli.cli.catalog import names

        start = prefix if prefix and incomplete.startswith(prefix) else ""
        matches = [f"{start}{name}" for name in names(kind) if f"{start}{name}".startswith(incomplete)]
        return [CompletionItem(name) for name in matches] or [CompletionItem(incomplete, type="file")]

    return complete


def complete_shown_name(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Completes the NAME of ``advdef show KIND NAME``: to names of the kind before it."""
    from robustbench_cli.cli.catalog import KINDS

    kind = context.params.get("kind")
    return complete_names(kind)(context, parameter, incomplete) if kind in KINDS else []
