"""The pages show commands, files and links that exist."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from robustbench_cli.benchmarks.evaluation.checks import IN_EVALUATION, load_checks
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.reports.columns import identity_columns

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[list[str]]:
    """The `advdef` commands of all pages, as words, without what starts them on several processes."""
    return [words for page in PAGES for block in blocks(page, "sh") for words in commands_of(block)]


def commands_of(block: str) -> list[list[str]]:
    """The words of the `advdef` commands of a block, without `advdef`."""
    found = []
    for line in block.replace("\\\n", " ").replace("$SLURM_ARRAY_TASK_ID", "1").splitlines():
        words = shlex.split(line, comments=True)
        if "advdef" in words and words[0] not in {"docker", "pip", "pipx", "uv"}:
            found.append(words[words.index("advdef") + 1 :])
    return found


def command_named(name: str) -> click.Command:
    module = importlib.import_module(f"robustbench_cli.cli.commands.{name.replace('-', '_')}")
    (command,) = (item for item in vars(module).values() if isinstance(item, click.Command) and item.name == name)
    return command


@pytest.mark.parametrize("words", commands(), ids=shlex.join)
def test_a_command_of_the_pages_parses(words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Command, options and values are those of the program; the files and folders that a page speaks of are made."""
    monkeypatch.chdir(tmp_path)
    parse(words)


def parse(words: list[str]) -> None:
    """Parses a command in an empty folder, which gets the files that the command names."""
    for option, word in pairwise(words):
        if option == "--checkpoint" and re.fullmatch(r"[\w-]+", word):
            Path(word).mkdir()
        elif re.fullmatch(r"[\w-]+\.csv", word):
            Path(word).write_text(
                ",".join([*identity_columns(available=()), "robust_accuracy"]) + "\n", encoding="utf-8"
            )
        elif re.fullmatch(r"[\w-]+\.(safetensors|pth?|yaml)", word):
            Path(word).touch()
    name, *arguments = words
    command = command_named(name)
    with command.make_context(name, list(arguments), resilient_parsing=False) as context:
        assert context.params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    """A relative link names a file of the repository, and its fragment a heading of that file."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, (
                target
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_of_the_pages_is_valid(page: Path) -> None:
    """Each YAML block is a mapping."""
    assert all(isinstance(yaml.safe_load(block), dict) for block in blocks(page, "yaml"))


def test_the_python_examples_run(tmp_path: Path) -> None:
    """The examples of two pages, on fewer images and in one epoch, print what the pages say; one process imports torch."""
    examples = []
    for page in ("README.md", "docs/python.md"):
        example = "\n".join(blocks(ROOT / page, "python"))
        examples.append(re.sub(r"epochs=\d+", "epochs=1", re.sub(r'"test"\), \d+', '"test"), 10', example)))
    program = "import sys\nfor example in sys.argv[1:]:\n    exec(example, {})\n    print('=' * 9)"
    command = [sys.executable, "-W", "error", "-c", program, *examples]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    readme, python, rest = done.stdout.split("=========\n")
    assert re.fullmatch(r"([01]\.\d+ )+\(.*\)\n", readme, re.DOTALL), readme
    assert re.fullmatch(
        r"pgd in linf at eps 0.15 on 10 images\n.*\n2 +worst-case .*certified by linear in linf .*", python, re.DOTALL
    ), python
    assert rest == ""


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_every_attack_and_defense_is_on_its_page(kind: str, advdef: Any) -> None:
    """The tables of supported attacks and defenses are complete, and name no other."""
    listed = advdef("list", kind, "--format", "json")
    names = {entry["name"] for entry in json.loads(listed.out)}
    page = (ROOT / "docs" / f"{kind}.md").read_text(encoding="utf-8")
    table = re.search(rf"## Supported {kind}\n\n(.*?)\n\n", page, re.DOTALL)
    assert table is not None
    shown = {name for name in re.findall(r"`([a-z][a-z0-9-]*:?)`", table[1]) if name != "torch.fx"}
    assert names - {"reprogramming"} == shown


def test_every_defense_is_in_the_row_of_its_family(advdef: Any) -> None:
    """The family that ``advdef list defenses`` names."""
    page = (ROOT / "docs" / "defenses.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-z-]+) \| (`.*) \|$", page.split("## Training")[0], re.MULTILINE))
    for entry in json.loads(advdef("list", "defenses", "--format", "json").out):
        assert f"`{entry['name']}`" in rows[entry["family"]], entry


def table_of_checks() -> str:
    """The table of all checks on the page of audits."""
    lines = [
        "| check | severity | in every evaluation | stored rows | in the model, from |",
        "| --- | --- | --- | --- | --- |",
    ]
    for check in sorted(load_checks(), key=lambda check: check.name):
        overrides = {name for name in dir(Check) if getattr(type(check), name) is not getattr(Check, name)}
        raised = not overrides.isdisjoint(IN_EVALUATION)
        rows = "yes" if "finding_in_rows" in overrides else ""
        model = check.budget if raised or "finding_in_model" in overrides else ""
        lines.append(f"| `{check.name}` | {check.severity} | {'yes' if raised else ''} | {rows} | {model} |")
    return "\n".join(lines)


def test_every_check_is_on_the_page_of_audits() -> None:
    """With its severity, when it looks, and the smallest budget; the message shows the table that belongs on the page."""
    table = table_of_checks()
    assert table in (ROOT / "docs/audit.md").read_text(encoding="utf-8"), table


def test_pictures_are_small() -> None:
    """A clone stays small."""
    assert all(path.stat().st_size < 200_000 for path in (ROOT / "docs/images").iterdir())


def test_the_citation_is_of_this_version() -> None:
    """CITATION.cff and the BibTeX entry name the version of the package."""
    from robustbench_cli import __version__

    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == __version__
    assert f"version = {{{__version__}}}" in (ROOT / "README.md").read_text()
