"""The help page of a command: its options in groups, and the environment variables in one sentence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from robustbench_cli.cli.config_file import long_name

__all__ = ["GROUPS", "PAGE", "VARIABLES", "Option", "epilog", "option", "variable", "write_options"]

PAGE = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
"""The options that show the help page, and its largest width."""

VARIABLES = "ADVDEF_"
"""The prefix of the options' environment variables."""

GROUPS = (
    "Model",
    "Data",
    "Defense",
    "Attack",
    "Certificate",
    "Audit",
    "Task",
    "Plan",
    "Rows",
    "Gates",
    "Store",
    "Output",
    "Run",
)
"""The groups of options, in the order of the help page."""

_DEFAULT_GROUP = "Run"


class Option(click.Option):
    """An option that belongs to a group of the help page.

    Args:
        *args: See :class:`click.Option`.
        group: One of :data:`GROUPS`, or a new one, which comes last.
        **kwargs: See :class:`click.Option`.
    """

    def __init__(self, *args: Any, group: str = _DEFAULT_GROUP, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group

    def get_help_extra(self, ctx: click.Context) -> Any:
        """What the help says of the option in brackets; click would also print a range without bounds."""
        extra = super().get_help_extra(ctx)
        if getattr(self.type, "min", None) is None and getattr(self.type, "max", None) is None:
            extra.pop("range", None)
        return extra


option: Callable[..., Callable[[Callable[..., None]], Callable[..., None]]] = partial(click.option, cls=Option)
"""Adds an :class:`Option` to a command; takes what :func:`click.option` takes, and ``group``."""


def write_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Writes the options of a command in their groups.

    Args:
        command: The command.
        context: Its context.
        formatter: Where the help page is written to.
    """
    groups: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        # The text above describes the arguments.
        if record is not None and isinstance(parameter, click.Option):
            groups[getattr(parameter, "group", _DEFAULT_GROUP)].append(record)
    for name in [*(name for name in GROUPS if name in groups), *(name for name in groups if name not in GROUPS)]:
        with formatter.section(name):
            formatter.write_dl(groups[name])


def epilog(command: click.Command) -> str:
    """The last paragraph of a command's help page: the other ways to set its options.

    Args:
        command: The command.
    """
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    # A name of two words shows the rule best.
    example = max(options, key=lambda entry: "-" in long_name(entry))
    text = f"Each option has an environment variable, such as {variable(example)} for --{long_name(example)}."
    if any(entry.multiple for entry in options):
        text += " Several values are separated by spaces, those of --set by semicolons."
    if any(entry.name == "config" for entry in options):
        text += (
            " The command line overrides the environment, the environment overrides the file of --config, and this overrides "
            "[tool.advdef] in the nearest pyproject.toml."
        )
    return text


def variable(parameter: click.Option) -> str:
    """The environment variable of an option."""
    return f"{VARIABLES}{long_name(parameter).replace('-', '_').upper()}"
