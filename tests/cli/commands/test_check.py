from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.suites.names import BUILTIN

SUITE = """\
dataset: digits
model: small-cnn
defenses: [none, {name: hrs, channels: [5, 5]}]
attacks: [pgd, {suite: quick}]
gates:
  - robust_accuracy_low=0.38
  - fail-on-flag: any
"""


def test_suites_are_checked_without_running_them(advdef: Callable[..., Any], tmp_path: Path) -> None:
    """A line for each file: the project's own, and one with gates."""
    (tmp_path / "gate.yaml").write_text(SUITE)
    files = [*map(str, sorted(BUILTIN.glob("*.yaml"))), str(tmp_path / "gate.yaml")]
    ended = advdef("check", *files)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == files
    assert lines[-1].endswith(": 2 defenses, 3 attacks, 2 gates")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("attacks: [pgd,", "attacks: [pgdd,", "line 4: unknown attack 'pgdd': did you mean 'pgd'?"),
        ("name: hrs", "name: hsr", "line 3: unknown defense 'hsr': did you mean 'hrs'?"),
        ("digits", "digit", "line 1: unknown dataset 'digit': did you mean 'digits'?"),
        ("small-cnn", "smal-cnn", "line 2: unknown model 'smal-cnn': did you mean 'small-cnn'?"),
        ("gates:", "gate:", "line 5: unknown key 'gate': did you mean 'gates'?"),
        ("fail-on-flag: any", "fail-on-flag: ani", "line 7: fail-on-flag 'ani': unknown flag 'ani'"),
        (
            "model: small-cnn",
            "model: small-cnn\neps: [8/255, 8]",
            "line 3: eps is 8: in linf it is at most 1, on the [0, 1] pixel scale, as in 8/255",
        ),
        (
            "fail-on-flag: any",
            "{fail-on-flag: any, where: attack=wurst-case}",
            "line 7: where 'attack=wurst-case' fits no row: did you mean 'worst-case'?",
        ),
        ("_low=0.38", "_low=38", "line 6: fail-under 'robust_accuracy_low=38': robust_accuracy_low is a share"),
    ],
)
def test_a_mistake_is_named_with_its_line(
    advdef: Callable[..., Any], tmp_path: Path, before: str, after: str, message: str
) -> None:
    """The other files are checked all the same."""
    wrong, right = tmp_path / "wrong.yaml", tmp_path / "right.yaml"
    wrong.write_text(SUITE.replace(before, after))
    right.write_text(SUITE)
    ended = advdef("check", str(wrong), str(right))
    assert ended.code == 2
    assert ended.err.startswith(f"advdef: error: {wrong}, {message}")
    assert len(ended.err.splitlines()) == 1
    assert ended.out.startswith(f"{right}: ")


def test_each_file_with_a_mistake_has_a_line(advdef: Callable[..., Any], tmp_path: Path) -> None:
    """Missing files and names of suites too."""
    ended = advdef("check", str(tmp_path / "missing.yaml"), "standard")
    assert ended.code == 2
    assert [line.rpartition(": ")[2] for line in ended.err.splitlines()][1:] == ["give a file that ends in .yaml"]
    assert "missing.yaml cannot be read" in ended.err


def test_a_radius_in_another_norm_may_be_large(advdef: Callable[..., Any], tmp_path: Path) -> None:
    """By the suite's norm, or by the usual one of attacks that have no linf."""
    for number, text in enumerate(("norm: l2\nattacks: [pgd]", "attacks: [ddn]")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(f"{text}\neps: 8\n")
        assert advdef("check", str(path)).code == 0


def test_files_that_are_not_there_have_a_warning(advdef: Callable[..., Any], tmp_path: Path) -> None:
    """They may be on the machine that runs the suite; those that are there have none."""
    (tmp_path / "net.pt").touch()
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"dataset:\n- npz:{tmp_path}/dat.npz\n- imagefolder:{tmp_path}?image_size=8\n"
        f"defenses:\n- {{checkpoint: {tmp_path}/nett.pt}}\n- {{checkpoint: {tmp_path}/net.pt}}\nattacks: [pgd]\n"
    )
    ended = advdef("check", str(path))
    assert ended.code == 0
    assert ended.err.splitlines() == [
        f"advdef: warning: {path}, line 5: no checkpoint {tmp_path}/nett.pt: did you mean 'net.pt'?",
        f"advdef: warning: {path}, line 2: no file {tmp_path}/dat.npz for npz",
    ]


def test_a_radius_that_is_a_mistake_has_a_warning(advdef: Callable[..., Any], tmp_path: Path) -> None:
    """One line for a suite, though the norm is that of its attacks."""
    path = tmp_path / "mine.yaml"
    path.write_text("attacks: [pgd, fgsm]\neps: [4/255, 8/25, 16/25]\n")
    assert advdef("check", str(path)).err.splitlines() == [
        f"advdef: warning: {path}, line 2: eps 8/25 is unusually large in linf: was 8/255 meant?"
    ]
