"""``advdef list``: the names of one kind of the catalog."""

from __future__ import annotations

import json
from typing import Any

import click

from robustbench_cli.cli import console, tables
from robustbench_cli.cli.catalog import KINDS, summaries
from robustbench_cli.cli.options import command, output_format
from robustbench_cli.cli.param_types import OneOf

__all__ = ["list_command"]


@command("list")
@click.argument("kind", type=OneOf([f"{kind}s" for kind in KINDS]), metavar="|".join(f"{kind}s" for kind in KINDS))
@output_format("table", "json")
def list_command(kind: str, output_format: str) -> None:
    """List attacks, defenses, datasets, models, corruptions, augmentations, recipes, suites or checks.

    An attack has more columns: its norms; its access to the model (gradients, scores or decisions); and whether it searches
    inside a fixed radius (fixed-radius) or for the smallest perturbation (minimal-norm). A defense has its family, a check its
    severity. A corruption has its family and its group: benchmark, the 15 of the mean, or extra.
    """
    entries = list(summaries(kind.removesuffix("s")))
    if output_format == "json":
        console.report(json.dumps(entries, indent=2))
        return
    console.report("".join(f"{line}\n" for line in tables.aligned([_texts(entry) for entry in entries])))


def _texts(entry: dict[str, Any]) -> list[str]:
    """The texts of an entry's columns."""
    return [",".join(value) if isinstance(value, list) else value or "-" for value in entry.values()]
