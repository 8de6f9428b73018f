"""``advdef list``: the names there are."""

from __future__ import annotations

import json

import click

from robustbench_cli.cli import console
from robustbench_cli.cli.catalog import KINDS, summaries
from robustbench_cli.cli.options import command, output_format
from robustbench_cli.cli.param_types import OneOf

__all__ = ["list_command"]


@command("list")
@click.argument("kind", type=OneOf([f"{kind}s" for kind in KINDS]), metavar="|".join(f"{kind}s" for kind in KINDS))
@output_format("table", "json")
def list_command(kind: str, output_format: str) -> None:
    """List the attacks, defenses, datasets, models or suites there are."""
    found = [{"name": name, "summary": summary} for name, summary in summaries(kind.removesuffix("s"))]
    if output_format == "json":
        console.report(json.dumps(found, indent=2))
        return
    width = max((len(each["name"]) for each in found), default=0)
    console.report("".join(f"{each['name']:{width}}  {each['summary']}\n" for each in found))
