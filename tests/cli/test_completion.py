from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.shell_completion import BashComplete

from robustbench_cli.cli.dispatch import advdef
from robustbench_cli.defenses import registry as defenses


def complete(*words: str) -> list[str]:
    """The completions of the last word of a command line."""
    *arguments, incomplete = words
    shell = BashComplete(advdef, {}, "advdef", "_ADVDEF_COMPLETE")
    return [item.value for item in shell.get_completions(list(arguments), incomplete)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("attack", "--attack", "apgd"), ["apgd-ce", "apgd-dlr", "apgd-pm", "apgd-t"]),
        (("attack", "--attack", "eot-pg"), ["eot-pgd"]),
        (("attack", "--dataset", "fash"), ["fashion-mnist"]),
        (("attack", "--model", "small"), ["small-cnn"]),
        (("attack", "--suite", "hrs-paper"), ["hrs-paper-cifar10", "hrs-paper-mnist"]),
        (("attack", "--norm", "li"), ["linf"]),
        (("attack", "--decis"), ["--decision"]),
        (("sweep", "qui"), ["quick"]),
        (("reprogram", "--task", "dig"), ["digits"]),
        (("show", "defense", "hr"), ["hrs"]),
        (("show", "suite", "stan"), ["standard"]),
        (("show", "att"), ["attack"]),
        (("list", "mod"), ["models"]),
        (("cert",), ["certify"]),
    ],
)
def test_words_are_completed(words: tuple[str, ...], expected: list[str]) -> None:
    """Names of the kind that an option or argument takes, choices, options and commands."""
    assert complete(*words) == expected


def test_every_defense_is_offered() -> None:
    """Without a beginning, all names are."""
    assert complete("train", "--defense", "") == defenses.names()


def test_a_users_own_file_is_completed_by_the_shell() -> None:
    """Where no name fits, the shell is told to complete files."""
    shell = BashComplete(advdef, {}, "advdef", "_ADVDEF_COMPLETE")
    (item,) = shell.get_completions(["attack", "--attack"], "./my_att")
    assert (item.type, item.value) == ("file", "./my_att")


def test_a_shell_gets_completions_fast_and_without_torch() -> None:
    """Through the variable that the help page names, as bash calls it."""
    environment = os.environ | {
        "_ADVDEF_COMPLETE": "bash_complete",
        "COMP_WORDS": "advdef show attack spar",
        "COMP_CWORD": "3",
    }
    program = (
        "import sys; from robustbench_cli.cli.main import main; main([]); "
        "assert not {'torch', 'pandas', 'pydantic'} & {*sys.modules}"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "plain,sparse-rs\n", "")


def test_the_help_says_how_to_switch_it_on() -> None:
    """For the three shells that click knows."""
    import click

    text = " ".join(advdef.get_help(click.Context(advdef, info_name="advdef")).split())
    for shell in ("bash", "zsh", "fish"):
        assert f"_ADVDEF_COMPLETE={shell}_source advdef" in text
