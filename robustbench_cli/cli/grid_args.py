"""The evaluation options on the command line: one click option for each field of ``GridOptions``."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import annotated_types
import click
from pydantic.fields import FieldInfo

from robustbench_cli.benchmarks.evaluation.options import GridOptions
from robustbench_cli.cli.help_page import option
from robustbench_cli.cli.param_types import OneOf

__all__ = ["grid_options"]


def grid_options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds an option for each field of :class:`~robustbench_cli.benchmarks.evaluation.options.GridOptions`.

    Args:
        function: The command; it gets each value under the field's name, ``None`` where the user gave none.
    """
    for name, field in reversed(GridOptions.model_fields.items()):
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        add = option(
            f"--{name.replace('_', '-')}",
            name,
            type=_type(field),
            default=None,
            group=extra.get("group", "Attack"),
            help=_help(field),
        )
        function = add(function)
    return function


def _type(field: FieldInfo) -> click.ParamType[Any]:
    """The click type of a field: a choice, or a number in its range."""
    members = [member for member in get_args(field.annotation) if member is not NoneType]
    if get_origin(field.annotation) is Literal:
        return OneOf(members)
    annotation: Any = members[0] if members else field.annotation
    # A pydantic FieldInfo among the metadata holds constraints of its own.
    metadata = [entry for entry in (*field.metadata, *getattr(annotation, "__metadata__", ())) if entry is not None]
    constraints = [constraint for entry in metadata for constraint in (getattr(entry, "metadata", None) or [entry])]
    bounds: dict[str, Any] = {}
    for entry in constraints:
        if isinstance(entry, annotated_types.Ge):
            bounds["min"] = entry.ge
        elif isinstance(entry, annotated_types.Le):
            bounds["max"] = entry.le
    base = get_args(annotation)[0] if get_args(annotation) else annotation
    if base is int:
        return click.IntRange(**bounds)
    if base is float:
        return click.FloatRange(**bounds)
    return click.STRING


def _help(field: FieldInfo) -> str:
    """The description of a field as a help text, with its default."""
    text = field.description or ""
    default = "" if field.default is None else f"  [default: {field.default}]"
    return f"{text[:1].upper()}{text[1:]}.{default}"
