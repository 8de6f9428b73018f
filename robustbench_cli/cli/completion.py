"""Completes names of attacks, defenses, data sets, models and suites in a shell, without an import of torch."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

__all__ = ["complete_names", "complete_shown_name"]

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


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
