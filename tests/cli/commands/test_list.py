from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli import attacks, defenses
from robustbench_cli.benchmarks import corruptions, datasets, models
from robustbench_cli.benchmarks.evaluation import checks
from robustbench_cli.benchmarks.suites.names import suite_names
from robustbench_cli.cli.catalog import card
from robustbench_cli.defenses.base.training.recipes import registry as recipes

NAMES = {
    # What a command of its own runs is an attack too, and so are those of other libraries.
    "attack": lambda: sorted([*attacks.registry.names(), "reprogramming", "art:", "foolbox:", "torchattacks:"]),
    "defense": defenses.registry.names,
    "dataset": datasets.registry.names,
    "model": models.registry.names,
    "corruption": corruptions.registry.names,
    "recipe": recipes.names,
    "suite": suite_names,
    "check": checks.registry.names,
}


@pytest.mark.parametrize("kind", NAMES)
def test_every_name_is_listed_with_what_it_is(advdef: Callable[..., Any], kind: str) -> None:
    """Both formats name everything that is registered, each with one line on what it is."""
    expected = NAMES[kind]()
    ended = advdef("list", f"{kind}s")
    assert (ended.code, ended.err) == (0, "")
    columns = {"attack": 5, "check": 3, "corruption": 4, "defense": 3}.get(kind, 2)
    lines = [line.split(maxsplit=columns - 1) for line in ended.out.splitlines()]
    ended = advdef("list", f"{kind}s", "--format", "json")
    assert (ended.code, ended.err) == (0, "")
    assert [line[0] for line in lines] == expected
    entries = json.loads(ended.out)
    assert [(entry["name"], entry["summary"]) for entry in entries] == [(line[0], line[-1]) for line in lines]
    assert all(entry["summary"] for entry in entries)


def test_attacks_are_listed_with_norms_access_and_type(advdef: Callable[..., Any]) -> None:
    """In columns without blanks, and as data; the norm that is the attack's own comes first."""
    lines = {line.split()[0]: line.split()[1:4] for line in advdef("list", "attacks").out.splitlines()}
    assert lines["pgd"] == ["linf,l2,l1", "gradients", "fixed-radius"]
    assert lines["cw"] == ["l2", "gradients", "minimal-norm"]
    assert lines["square"] == ["linf,l2,l1", "scores", "fixed-radius"]
    assert lines["hopskipjump"] == ["l2,linf", "decisions", "minimal-norm"]
    assert lines["reprogramming"] == ["-", "-", "-"]
    entries = {entry["name"]: entry for entry in json.loads(advdef("list", "attacks", "--format", "json").out)}
    assert list(entries["fmn"]) == ["name", "norms", "access", "type", "summary"]
    assert entries["fmn"]["norms"] == ["l2", "linf", "l1", "l0"]
    assert entries["reprogramming"]["norms"] is None


def test_corruptions_are_listed_with_family_and_group(advdef: Callable[..., Any]) -> None:
    """The paper's families, and its four extra corruptions; the card says what extra means."""
    lines = {line.split()[0]: line.split()[1:3] for line in advdef("list", "corruptions").out.splitlines()}
    assert {name for name, (_, group) in lines.items() if group == "extra"} == {
        *("speckle-noise", "gaussian-blur", "spatter", "saturate"),
    }
    families = [family for family, group in lines.values() if group == "benchmark"]
    assert {family: families.count(family) for family in families} == {
        "noise": 3,
        "blur": 4,
        "weather": 4,
        "digital": 4,
    }
    assert "extra, left out of means" in advdef("show", "corruption", "saturate").out


@pytest.mark.parametrize("kind", NAMES)
def test_a_list_is_made_without_torch(kind: str) -> None:
    """Names and summaries are read from the source, so that a list is there at once."""
    program = (
        "import sys; from robustbench_cli.cli.main import main; "
        f"assert main(['list', '{kind}s']) == 0; sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, stdout=subprocess.DEVNULL)
    assert ended.returncode == 0


def test_one_that_is_broken_hides_no_other(
    advdef: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry point that cannot be imported gets a warning, and the rest is listed."""
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken')")
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path)])
    attacks.registry.__dict__.pop("_files", None)
    ended = advdef("list", "attacks")
    attacks.registry.__dict__.pop("_files", None)
    assert ended.code == 0
    assert ended.err == "advdef: warning: attack broken cannot be loaded: RuntimeError: broken\n"
    assert "pgd" in ended.out.split()


def test_a_suites_first_sentence_does_not_end_in_an_abbreviation() -> None:
    """What tells the repetitions of one paper apart stands behind "et al."."""
    summaries = [card("suite", name)["summary"] for name in suite_names() if name.startswith("hrs")]
    assert len(set(summaries)) == len(summaries) > 1
    assert not any(summary.endswith("al.") for summary in summaries)
