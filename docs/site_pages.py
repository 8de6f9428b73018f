"""The pages of the documentation site that are made when it is built; ``mkdocs.yml`` names this file as a hook.

``README.md`` and other files beside it become pages as they are. Every registered attack, defense,
data set, model, corruption, augmentation, recipe, suite and check gets a page from what ``advdef show`` prints, and every command one from its
options. ``make docs`` builds the site; see https://www.mkdocs.org/user-guide/configuration/#hooks for the functions ``on_...``.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import robustbench_cli as package
from robustbench_cli.attacks import registry as attacks
from robustbench_cli.benchmarks.reports.columns import COLUMNS
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.cli.catalog import KINDS, card, names
from robustbench_cli.cli.commands.show import VALUE_COLUMNS, facts, value_rows, written
from robustbench_cli.cli.dispatch import advdef
from robustbench_cli.cli.help_page import GROUPS, epilog
from robustbench_cli.defenses import registry as defenses

ROOT = Path(__file__).parents[1]

COPIED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "license.md",
}
"""The files outside ``docs/`` that the site has, and their paths in it."""

TITLES = {
    "attack": "Attacks",
    "defense": "Defenses",
    "dataset": "Data sets",
    "model": "Models",
    "corruption": "Corruptions",
    "augmentation": "Augmentations",
    "recipe": "Recipes",
    "suite": "Suites",
    "check": "Checks",
}

GUIDES = {
    "attack": {"Which attack should I run?": "which-attack.md", "Attack suites": "attacks.md"},
    "defense": {"Defenses": "defenses.md", "Evaluate your randomized defense honestly": "randomized-defense.md"},
    "dataset": {"Models and data": "models-and-data.md#data-sets"},
    "model": {"Models and data": "models-and-data.md"},
    "corruption": {"Corruptions": "corruptions.md"},
    "augmentation": {"Training": "defenses.md#training"},
    "recipe": {"Training": "defenses.md#recipes"},
    "suite": {"Attack suites": "attacks.md", "Sweeps": "sweeps.md"},
    "check": {"Audits": "audit.md", "Reports": "reports.md#flags"},
    "training": {"Training": "defenses.md#training"},
}
"""The pages of ``docs/`` that a page of each kind leads to."""

EPS = {"linf": "0.1", "l2": "1", "l1": "5", "l0": "5"}
"""A radius of each norm for the embedded digits."""

EXAMPLES = {
    ("attack", "art:"): "advdef attack --defense none --attack art:ProjectedGradientDescent --eps 0.1 --n 20",
    ("attack", "foolbox:"): "advdef attack --defense none --attack foolbox:LinfPGD --eps 0.1 --n 20",
    ("attack", "torchattacks:"): "advdef attack --defense none --attack torchattacks:PGD --eps 0.1 --n 20",
    ("attack", "none"): "advdef attack --defense none --attack none --n 20",
    ("attack", "non-adaptive"): "advdef attack --defense jpeg --attack non-adaptive --attack pgd --eps 0.1 --n 20",
    ("attack", "reprogramming"): "advdef reprogram --model small-cnn --dataset fashion-mnist --task digits --n 100",
    ("attack", "transfer"): (
        "advdef train --defense none --seed 1 -o surrogate.safetensors\n"
        "advdef attack --defense none --attack transfer --set transfer.surrogate=surrogate.safetensors --eps 0.1 --n 20"
    ),
    ("dataset", "hf"): "advdef attack --model timm:resnet18.a1_in1k --dataset hf:OWNER/NAME --eps 4/255 --n 20",
    (
        "model",
        "hf-hub:",
    ): "advdef attack --model hf-hub:timm/resnet18.a1_in1k --dataset imagenet:PATH --eps 4/255 --n 20",
    ("model", "open-clip"): (
        "advdef attack --model open-clip:ViT-B-32@laion2b_s34b_b79k --dataset cifar10 --image-size 224 --eps 1/255 --n 20"
    ),
    (
        "model",
        "robustbench:",
    ): "advdef attack --model robustbench:Carmon2019Unlabeled --dataset cifar10 --eps 8/255 --n 20",
    ("model", "sklearn"): "advdef attack --model sklearn:SVC --attack pgd --eps 0.1 --n 20",
    ("model", "timm"): "advdef attack --model timm:resnet18.a1_in1k --dataset imagenet:PATH --eps 4/255 --n 20",
    ("model", "torchvision"): (
        "advdef attack --model torchvision:resnet50 --weights DEFAULT --dataset imagenet:PATH --eps 4/255 --n 20"
    ),
}
"""The examples of names to which the usual form does not fit."""

_WIDE = {"tutorial.md"}
"""The pages whose output is as wide as the page: the list of their sections gives way to it."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the generated pages to the navigation, before its last section."""
    assert config.nav is not None
    sections = [{TITLES[kind]: [path for path, _ in pages_of(kind)]} for kind in KINDS]
    catalog = ["catalog/index.md", *sections, {"Training": "catalog/training.md"}]
    reference = [
        "reference/index.md",
        {"Commands": [f"reference/{name}.md" for name in _commands()]},
        {"Columns": "reference/columns.md"},
        {"Python": "reference/python.md"},
    ]
    config.nav[-1:-1] = [{"Catalog": catalog}, {"Reference": reference}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for path, text in generated():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links to files that lie outside ``docs/``, or were copied from there, to their pages; makes room for tables."""
    path = page.file.src_uri
    if path in _WIDE:
        page.meta["hide"] = ["toc"]
    original = next((file for file, copy in COPIED.items() if copy == path), f"docs/{path}")

    def target(match: re.Match[str]) -> str:
        file, _, fragment = match[1].partition("#")
        if "://" in file or not file or original.startswith(("docs/catalog", "docs/reference")):
            return match[0]
        inside = os.path.normpath(Path(original).parent / file)
        site = COPIED.get(inside, inside.removeprefix("docs/"))
        relative = os.path.relpath(site, Path(path).parent)
        return f"]({relative}{'#' + fragment if fragment else ''})"

    return re.sub(r"\]\(([^)\s]+)\)", target, markdown)


def generated() -> Iterator[tuple[str, str]]:
    """The pages that have no file in ``docs/``: their path and their Markdown."""
    for file, path in COPIED.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        yield path, f"# License\n\n{text}" if file == "LICENSE" else text
    for kind in KINDS:
        yield from pages_of(kind)
    yield "catalog/training.md", _unit_page("training", "train")
    yield "catalog/index.md", _catalog_page()
    yield "reference/index.md", _reference_page()
    yield "reference/columns.md", _columns_page()
    yield "reference/python.md", _python_page()
    for name, command in _commands().items():
        yield f"reference/{name}.md", _command_page(name, command)


@cache
def pages_of(kind: str) -> list[tuple[str, str]]:
    """The pages of a kind of the catalog, the list of all first: their path and their Markdown."""
    folder = f"catalog/{TITLES[kind].lower().replace(' ', '-')}"
    return [(f"{folder}/index.md", _list_page(kind))] + [
        (f"{folder}/{_file_name(name)}.md", _unit_page(kind, name)) for name in names(kind)
    ]


def _file_name(name: str) -> str:
    return name.removesuffix(":")


@cache
def _card(kind: str, name: str) -> dict[str, Any]:
    return card(kind, name)


def _list_page(kind: str) -> str:
    """The list of all names of a kind."""
    rows = [f"| [`{name}`]({_file_name(name)}.md) | {_cell(_card(kind, name)['summary'])} |" for name in names(kind)]
    table = "\n".join(["| name | what it is |", "| --- | --- |", *rows])
    command = f"advdef list {'datasets' if kind == 'dataset' else TITLES[kind].lower()}"
    return f"# {TITLES[kind]}\n\n`{command}` prints this list.\n\n{table}\n\n{_related(kind, '', '../../')}"


def _unit_page(kind: str, name: str) -> str:
    """The page of one name: what ``advdef show`` prints, an example, and where to read on."""
    entry = _card(kind, name)
    up = "../" if kind == "training" else "../../"
    summary = entry["summary"]
    if kind == "check":
        # The line of a legend.
        summary = f"{summary[0].upper()}{summary[1:]}."
    parts = [f"# {name if kind != 'training' else 'Training'}", _text(summary), _text(entry["description"])]
    known = {
        key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in facts(entry).items()
    }
    if kind in {"attack", "defense"} and name in (registry := {"attack": attacks, "defense": defenses}[kind]).names():
        known["in Python"] = f"advdef.{registry.load(name).__name__}"
    parts.append("\n".join(f"- **{key}:** {_with_links(_cell(str(text)))}" for key, text in known.items()))
    if entry.get("parameters"):
        how = _how_to_set(kind, name)
        parts.append(f"## Parameters\n\n{how}")
        parts.append(_parameter_table(entry["parameters"]))
    if entry.get("values"):
        rows = [f"| {' | '.join(map(_cell, row))} |" for row in [VALUE_COLUMNS, ("---",) * 4, *value_rows(entry)]]
        parts.append("\n".join(["## Values\n", *rows]))
    if kind != "training":
        parts.append(f"## Example\n\n```sh\n{example(kind, name)}\n```")
    parts.append(_related(kind, name, up))
    return "\n\n".join(part for part in parts if part) + "\n"


def _how_to_set(kind: str, name: str) -> str:
    if kind == "corruption":
        return "A suite file sets them."
    if kind == "augmentation":
        return f"`--set 'train.augmentations=[{{name: {name}, KEY: VALUE}}]'` sets one."
    return f"`--set {'train' if kind == 'recipe' else name}.KEY=VALUE` sets one."


def _parameter_table(parameters: list[dict[str, Any]]) -> str:
    rows = [
        "| "
        + " | ".join(
            [
                _code(entry["name"]),
                _cell(entry["type"]),
                "(required)" if entry["required"] else _code(written(entry["default"])),
                _cell(", ".join(entry["constraints"])),
                _cell(entry["description"]),
            ]
        )
        + " |"
        for entry in parameters
    ]
    return "\n".join(["| parameter | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |", *rows])


def example(kind: str, name: str) -> str:
    """A command that uses a name of the catalog.

    Args:
        kind: One of :data:`KINDS`.
        name: The name.
    """
    if (kind, name) in EXAMPLES:
        return EXAMPLES[kind, name]
    if kind == "attack":
        norm = _card(kind, name).get("norms", ["linf"])[0]
        return f"advdef attack --defense none --attack {name} --norm {norm} --eps {EPS[norm]} --n 20"
    if kind == "defense":
        return (
            f"advdef train --defense {name} -o {name}.safetensors\nadvdef attack --checkpoint {name}.safetensors --n 20"
        )
    if kind == "dataset":
        argument = _card(kind, name).get("argument_name")
        data = name if argument is None else f"{name}:{argument}"
        return f"advdef attack --checkpoint model.safetensors --dataset {data} --n 20"
    if kind == "model":
        if name == "small-cnn":
            return f"advdef attack --model {name} --attack pgd --eps 0.1 --n 20"
        return f"advdef attack --checkpoint weights.pt --model {name} --dataset cifar10 --eps 8/255 --n 20"
    if kind == "corruption":
        return f"advdef attack --defense none --attack none --corruption {name} --severity 3 --n 20"
    if kind in {"augmentation", "recipe"}:
        options = (
            f"--recipe {name} --dataset cifar10"
            if kind == "recipe"
            else f"--defense pgd-at --set train.augmentations={name}"
        )
        return f"advdef train {options} -o {name}.safetensors"
    if kind == "suite":
        sweeps = read_suite(name).dataset is not None
        return (
            f"advdef sweep {name} --dry-run"
            if sweeps
            else f"advdef attack --defense none --suite {name} --eps 0.1 --n 20"
        )
    return (
        "advdef train --defense none -o model.safetensors\nadvdef audit --checkpoint model.safetensors --budget quick"
    )


def _related(kind: str, name: str, up: str) -> str:
    """Where to read on: guides, and for an attack the suites that use it."""
    links = [f"[{title}]({up}{path})" for title, path in GUIDES[kind].items()]
    if kind == "attack" and name:
        members = {suite: [member["name"] for member in _card("suite", suite)["attacks"]] for suite in names("suite")}
        links += [f"suite [`{suite}`]({up}catalog/suites/{suite}.md)" for suite in members if name in members[suite]]
    return f"See also: {', '.join(links)}."


def _catalog_page() -> str:
    lines = [
        f"- [{TITLES[kind]}]({path.removeprefix('catalog/')}): {len(names(kind))} names"
        for kind in KINDS
        for path in [pages_of(kind)[0][0]]
    ]
    return "\n".join(
        [
            "# Catalog\n\nWhat is installed with advdef, each with a page of its own.\n",
            *lines,
            "- [Training](training.md)",
        ]
    )


@cache
def _commands() -> dict[str, click.Command]:
    context = click.Context(advdef)
    listed = {name: advdef.get_command(context, name) for name in advdef.list_commands(context)}
    return {name: command for name, command in listed.items() if command is not None}


def _reference_page() -> str:
    rows = [f"| [`advdef {name}`]({name}.md) | {_cell(_first(command))} |" for name, command in _commands().items()]
    table = "\n".join(["| command | what it does |", "| --- | --- |", *rows])
    more = (
        "See also: [columns](columns.md) of the table, [flags](../catalog/checks/index.md), [exit codes](../reports.md#exit-codes), "
        "[configuration](../reports.md#configuration), [the Python interface](python.md)."
    )
    return f"# Reference\n\n{table}\n\n{more}\n"


def _first(command: click.Command) -> str:
    return (command.help or "").partition("\n")[0]


def _command_page(name: str, command: click.Command) -> str:
    """The page of a command: its text, and its options in the groups of ``--help``."""
    context = click.Context(command, info_name=name, parent=click.Context(advdef, info_name="advdef"))
    usage = " ".join([f"advdef {name}", *command.collect_usage_pieces(context)])
    parts = [f"# advdef {name}", f"```\n{usage}\n```", _text(inspect.cleandoc(command.help or ""))]
    options = [entry for entry in command.get_params(context) if isinstance(entry, click.Option)]
    groups = list(dict.fromkeys([*GROUPS, *(getattr(entry, "group", "Run") for entry in options)]))
    for group in groups:
        rows = [
            f"| {_code(record[0])} | {_cell(record[1])} |"
            for entry in options
            if getattr(entry, "group", "Run") == group and (record := entry.get_help_record(context)) is not None
        ]
        if rows:
            head = ["| option | meaning |", "| --- | --- |"]
            parts += [f"## {group}", "\n".join([*head, *rows])]
    return "\n\n".join([*parts, _text(epilog(command))]) + "\n"


def _columns_page() -> str:
    better = {"higher": "higher", "lower": "lower", None: ""}
    rows = [
        f"| `{entry.name}` | {entry.kind} | {better[entry.gate]} | {entry.shown.header if entry.shown else ''} |"
        for entry in COLUMNS
    ]
    head = ["| column | holds | better, in gates | header in the terminal |", "| --- | --- | --- | --- |"]
    text = (
        "The columns of CSV and JSON files, in their order. [Reports](../reports.md#columns) says what they mean. A share is from 0 "
        "to 1. A gate may judge every column of numbers."
    )
    return "\n".join(["# Columns", "", text, "", *head, *rows, ""])


def _python_page() -> str:
    """The functions and base classes of ``import advdef``; attacks and defenses are in the catalog."""
    classes = {**attacks.classes(), **defenses.classes()}
    public = [getattr(package, name) for name in dir(package) if not name.startswith("_") and name not in classes]
    own = [entry for entry in public if getattr(entry, "__module__", "").startswith("robustbench_cli.")]
    listed = sorted({f"{entry.__module__}.{entry.__name__}" for entry in own}, key=_last_name)
    text = (
        "What `import advdef` offers. Each [attack](../catalog/attacks/index.md) and each [defense](../catalog/defenses/index.md) is a "
        "class too; its page says the name. [Python interface](../python.md) shows how they go together."
    )
    return "\n\n".join(["# Python", text, *(f"::: {path}" for path in listed)]) + "\n"


def _last_name(path: str) -> str:
    return path.rpartition(".")[2]


class PlainRoles(Extension):
    """Turns the roles of docstrings into code: Markdown has none."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrites a docstring.

        Args:
            obj: The function, class or attribute, as griffe read it.
            **kwargs: What griffe passes beside it.
        """
        if obj.docstring is not None:
            value = re.sub(r":\w+:`~?\.*([^`]*)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = value.replace("``", "`")


def _cell(text: str) -> str:
    """Text in a cell of a table."""
    return _escaped(" ".join(text.split()))


def _code(text: str) -> str:
    """Code in a cell of a table."""
    return f"<code>{_cell(text)}</code>" if text else ""


def _text(text: str) -> str:
    """Text of a docstring or a help page as paragraphs and lists."""
    lines = text.replace("\b", "").splitlines()
    # Indented lines are code.
    return "\n".join(line if line.startswith("    ") else _escaped(line) for line in lines)


def _escaped(text: str) -> str:
    """Text without markup: every character that Markdown or HTML could read is a reference to it."""
    return re.sub(r"[^\w\s.,:;()'/+-]|_", lambda match: f"&#{ord(match[0])};", text)


def _with_links(cell: str) -> str:
    """A cell whose papers lead to arXiv."""
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", cell)
