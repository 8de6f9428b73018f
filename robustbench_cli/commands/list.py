"""``advdef list``: the names there are."""

from __future__ import annotations

import json

import click

from robustbench_cli import console
from robustbench_cli.kinds import KINDS, registry_of, summary
from robustbench_cli.options import OneOf, command, output_format


@command("list")
@click.argument("kind", type=OneOf([f"{kind}s" for kind in KINDS]), metavar="|".join(f"{kind}s" for kind in KINDS))
@output_format("table", "json")
def list_command(kind: str, output_format: str) -> None:
    """List the attacks, defenses, datasets or models there are."""
    registry = registry_of(kind.removesuffix("s"))
    found = []
    for name in registry.names():
        try:
            found.append({"name": name, "summary": summary(registry.load(name))})
        except Exception as error:  # noqa: BLE001 - one that is broken must not hide the others
            console.warn(f"{registry.kind} {name} cannot be loaded: {type(error).__name__}: {error}")
    if output_format == "json":
        console.report(json.dumps(found, indent=2))
        return
    width = max((len(each["name"]) for each in found), default=0)
    console.report("".join(f"{each['name']:{width}}  {each['summary']}\n" for each in found))
