"""``advdef show``: one entry of the catalog, or the training, in full."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from robustbench_cli.cli import console
from robustbench_cli.cli.catalog import KINDS, SHOWN, card, names
from robustbench_cli.cli.completion import complete_shown_name
from robustbench_cli.cli.options import command, output_format
from robustbench_cli.cli.param_types import OneOf
from robustbench_cli.cli.tables import aligned, plain
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["VALUE_COLUMNS", "facts", "show", "value_rows", "written"]


class _Kind(OneOf):
    """A kind; a name in its place gets the command that shows it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            text = str(value)
            # A path may be of any kind.
            kinds = ["defense"] if ".py:" in text else [kind for kind in KINDS if text in names(kind)]
            if not kinds:
                raise
            raise UserError(
                f"advdef show {text}: the kind is missing: give it first, as in 'advdef show {kinds[0]} {text}'"
            ) from None


@command("show")
@click.argument("kind", type=_Kind(SHOWN), metavar="|".join(SHOWN))
@click.argument("name", required=False, metavar="NAME", shell_complete=complete_shown_name)
@output_format("table", "json")
def show(kind: str, name: str | None, output_format: str) -> None:
    """Show every parameter, its default, the norms and the source paper of NAME.

    NAME is a name of "advdef list", package.module:object or path/to/file.py:object. "advdef show training" without a name
    shows the parameters of --set train.KEY=VALUE, with a name the values of a recipe and their sources.
    """
    if kind == "training":
        kind, name = ("training", "train") if name in {None, "train"} else ("recipe", name)
    if name is None:
        raise UserError(f"advdef show {kind}: give NAME, a name of 'advdef list {kind}s'")
    entry = card(kind, name)
    if output_format == "json":
        console.report(json.dumps(entry, indent=2))
        return
    parts = [f"{entry['name']} ({entry['kind']})\n{entry['summary']}", entry["description"], _fact_lines(facts(entry))]
    console.report("\n\n".join(part for part in parts if part))
    if entry.get("parameters"):
        console.report("\n")
        console.report(_table(_PARAMETER_COLUMNS, map(_parameter_row, entry["parameters"])))
    if entry.get("values"):
        console.report("\n")
        console.report(_table(VALUE_COLUMNS, value_rows(entry)))


def facts(entry: dict[str, Any]) -> dict[str, Any]:
    """The lines of a card, by their labels.

    Args:
        entry: The card; see :func:`~robustbench_cli.cli.catalog.card`.
    """
    lines: dict[str, Any] = {
        key: entry[key]
        for key in ("type", "norms", "access", "family", "classes", "shape", "epochs", "augmentations", "paper")
        if entry.get(key) not in (None, [])
    }
    if "attacked_by" in entry:
        lines["attacked by"] = entry["attacked_by"]
    if "group" in entry:
        lines["group"] = f"{entry['group']}{'' if entry['group'] == 'benchmark' else ', left out of means'}"
    if "eps" in entry:
        lines["usual radius"] = f"{entry['eps']} in linf, the default of attacks and of adversarial training"
    if "members" in entry:
        lines["attacks"] = entry["members"]
    if "argument_name" in entry:
        lines["written"] = f"{entry['name'].partition(':')[0]}:{entry['argument_name']}"
    if entry["kind"] == "check":
        page = {
            "raised_when": "raised when",
            "why": "why",
            "remedy": "what to do",
            "severity": "severity",
            "source": "source",
        }
        lines |= {label: entry[key] for key, label in page.items() if key in entry}
    if entry["kind"] == "training":
        lines["written"] = "--set train.KEY=VALUE"
    if "cost" in entry:
        lines["cost"] = _cost_line(entry["cost"])
    if entry.get("parameters") == []:
        lines["parameters"] = "none"
    return lines | _suite_facts(entry) | _recipe_facts(entry)


def _recipe_facts(entry: dict[str, Any]) -> dict[str, Any]:
    """The lines of a recipe's card."""
    if entry["kind"] != "recipe":
        return {}
    lines: dict[str, Any] = {key: entry[key] for key in ("code", "defenses", "datasets") if key in entry}
    if entry.get("departures"):
        lines["departures"] = "; ".join(entry["departures"])
    return lines | {"written": f"--recipe {entry['name']}"}


def _cost_line(cost: dict[str, Any]) -> str:
    """The passes of an attack."""
    line = (
        f"up to {cost['forwards']} forward / {cost['backwards']} backward passes per unbroken image of ten classes, times K with "
        "--eot K"
    )
    if restarted := cost.get("restarted"):
        line += f"; {restarted['forwards']} / {restarted['backwards']} with targeted_restarts=2"
    return line


def _suite_facts(entry: dict[str, Any]) -> dict[str, Any]:
    """The lines of a suite's card."""
    if "attacks" not in entry:
        return {}
    lines = {
        "attacks": [_member(attack) for attack in entry["attacks"]],
        "order": (
            "each attack runs on the images that those before it did not break"
            if entry["cascade"]
            else "each attack runs on all images"
        ),
    }
    if entry["corruptions"]:
        lines["corruptions"] = [_member(corruption) for corruption in entry["corruptions"]]
    if any(attack.get("only_if") == "blinded" for attack in entry["attacks"]):
        lines["only_if=blinded"] = (
            "runs only if an attack before it was blinded (flagged zero-gradient or wrong-gradient) and no other attack "
            "broke through; for a randomized defense only with --eot exact, and not with --targeted"
        )
    return lines


def _fact_lines(entries: dict[str, Any]) -> str:
    """Labels and texts in two columns."""
    texts = [
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for key, value in entries.items()
    ]
    return "\n".join(aligned(texts))


def _member(attack: dict[str, Any]) -> str:
    parameters = ", ".join(f"{key}={written(value)}" for key, value in attack.items() if key != "name")
    return f"{attack['name']}({parameters})" if parameters else str(attack["name"])


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*plain(*row))
    return table


_PARAMETER_COLUMNS = ("parameter", "type", "default", "allowed", "meaning")


def _parameter_row(entry: dict[str, Any]) -> tuple[str, ...]:
    default = "(required)" if entry["required"] else written(entry["default"])
    return entry["name"], entry["type"], default, ", ".join(entry["constraints"]), entry["description"]


VALUE_COLUMNS = ("parameter", "data set", "value", "source")
"""The columns of :func:`value_rows`."""


def value_rows(entry: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The values of a recipe: the parameter, the data set if it is for one only, the value as text, and its source.

    Args:
        entry: The card of the recipe.
    """
    epochs = {value["dataset"]: value["value"] for value in entry["values"] if value["name"] == "train.epochs"}
    rows = []
    for value in entry["values"]:
        if value["value"] is None:
            shown = "(default)"
        elif value["name"] == "train.milestones":
            whole = epochs.get(value["dataset"], epochs[""])
            ends = ", ".join(f"{whole * part:.6g}" for part in value["value"])
            shown = f"after epochs {ends} of {whole}"
        else:
            shown = _with_levels(value["value"])
        owner, _, key = value["name"].partition(".")
        name = f"{entry['defenses'][0]}.{key}" if owner == "defense" else value["name"]
        rows.append((name, value["dataset"], shown, value["source"]))
    return rows


def _with_levels(value: Any) -> str:
    """A value; a fraction of 255 as such: 8/255."""
    levels = round(value * 255) if isinstance(value, float) else 0
    return f"{levels}/255" if levels and value == levels / 255 and value < 1 else written(value)


def written(value: Any) -> str:
    """A default as ``--set`` would take it.

    Args:
        value: The default, as a JSON value.
    """
    return value if isinstance(value, str) else json.dumps(value)
