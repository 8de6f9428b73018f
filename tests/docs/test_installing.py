"""What the page on installing says of extras, completion and the container is so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/installing.md").read_text(encoding="utf-8")

COMPLETE = {
    "bash": 'COMP_WORDS=(advdef attack --attack apg); COMP_CWORD=3; _advdef_completion advdef; echo "${COMPREPLY[@]}"',
    "zsh": (
        "words=(advdef attack --attack apg); CURRENT=4; _describe() { : }; compadd() { echo $completions }; "
        "_advdef_completion advdef"
    ),
}
"""What each shell does when a user presses the tabulator after `advdef attack --attack apg`."""

BEFORE = {"bash": "", "zsh": "autoload -Uz compinit; compinit -u -D; "}


def test_the_extras_are_those_of_the_package() -> None:
    """The table has every extra, apart from the one for those who change advdef."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = {*tomllib.load(file)["project"]["optional-dependencies"]}
    (table,) = re.findall(r"\| extra \| what it adds \|\n.*?\n\n", PAGE, re.DOTALL)
    cells = [row.split("|")[1] for row in table.strip().splitlines()[2:]]
    assert {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)} == extras - {"dev"}


@pytest.mark.parametrize("shell", [shell for shell in COMPLETE if shutil.which(shell)])
def test_the_line_of_a_shell_completes_names(shell: str, tmp_path: Path) -> None:
    """The line of the page, then a key press: the names of the attacks that begin so."""
    program = tmp_path / "advdef"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m robustbench_cli "$@"\n')
    program.chmod(0o755)
    (line,) = re.findall(rf"^\| {shell}.*`(eval .*)` \|$", PAGE, re.MULTILINE)
    done = subprocess.run(
        [shell, "-c", f"{BEFORE[shell]}{line}; {COMPLETE[shell]}"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["apgd-ce", "apgd-dlr", "apgd-pm", "apgd-t"], done.stderr


def test_the_container_is_built_from_what_a_wheel_needs() -> None:
    """`.dockerignore` lets through what tests/test_wheel.py builds wheels from, and the constraints that the image uses."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    folders = {"attacks", "benchmarks", "defenses", "robustbench_cli"}
    assert allowed == folders | {"LICENSE", "README.md", "advdef.py", "constraints.txt", "pyproject.toml", "setup.py"}
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["advdef"]' in dockerfile
    assert "PIP_OPTIONS" in dockerfile and "PIP_OPTIONS" in PAGE
