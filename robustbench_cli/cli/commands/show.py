"""``advdef show``: one attack, defense, data set, model or suite in full."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from robustbench_cli.cli import console
from robustbench_cli.cli.catalog import KINDS, card
from robustbench_cli.cli.options import command, output_format
from robustbench_cli.cli.param_types import OneOf
from robustbench_cli.cli.tables import plain

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["show"]


@command("show")
@click.argument("kind", type=OneOf(KINDS), metavar="|".join(KINDS))
@click.argument("name")
@output_format("table", "json")
def show(kind: str, name: str, output_format: str) -> None:
    """Show every parameter, its default, the norms and the source paper of NAME.

    NAME is one that "advdef list" gives, package.module:object or path/to/file.py:object.
    """
    told = card(kind, name)
    if output_format == "json":
        console.report(json.dumps(told, indent=2))
        return
    parts = [f"{told['name']} ({told['kind']})\n{told['summary']}", told["description"], _facts(told)]
    console.report("\n\n".join(part for part in parts if part))
    if told.get("parameters"):
        console.report("\n")
        console.report(_table(told["parameters"]))


def _facts(told: dict[str, Any]) -> str:
    facts: dict[str, Any] = {key: told[key] for key in ("norms", "classes", "shape", "epochs", "paper") if key in told}
    if "attacked_by" in told:
        facts["attacked by"] = told["attacked_by"]
    if "eps" in told:
        facts["usual radius"] = f"{told['eps']} in linf, which attacks take and defenses train for where none is given"
    if "argument_name" in told:
        facts["written"] = f"{told['name'].partition(':')[0]}:{told['argument_name']}"
    if "minimal_norm" in told:
        facts["searches"] = "the smallest perturbation" if told["minimal_norm"] else "inside a given radius"
    if "cost" in told:
        forwards, backwards = told["cost"]["forwards"], told["cost"]["backwards"]
        facts["cost"] = (
            f"{forwards} forward and {backwards} backward passes for an image that stands, as often with --eot"
        )
    if "attacks" in told:
        facts["attacks"] = [_member(each) for each in told["attacks"]]
        facts["order"] = (
            "each runs on what those before it have not broken" if told["cascade"] else "each runs on all images"
        )
        if any(each.get("only_if") == "blinded" for each in told["attacks"]):
            facts["only_if=blinded"] = (
                "runs only where an attack before it was blinded (flagged zero-gradient or wrong-gradient) and no other "
                "one broke through; of a randomized defense only with --eot exact, and not with --targeted"
            )
    if told.get("parameters") == []:
        facts["parameters"] = "none"
    width = max(map(len, facts), default=0)
    return "\n".join(
        f"{key:{width}}  {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in facts.items()
    )


def _member(attack: dict[str, Any]) -> str:
    parameters = ", ".join(f"{key}={_written(value)}" for key, value in attack.items() if key != "name")
    return f"{attack['name']}({parameters})" if parameters else str(attack["name"])


def _table(parameters: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        "parameter", "type", "default", "allowed", "what it is", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    for each in parameters:
        default = "(required)" if each["required"] else _written(each["default"])
        table.add_row(*plain(each["name"], each["type"], default, ", ".join(each["constraints"]), each["description"]))
    return table


def _written(value: Any) -> str:
    """A default as ``--set`` would take it."""
    return value if isinstance(value, str) else json.dumps(value)
