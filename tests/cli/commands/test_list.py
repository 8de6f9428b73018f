from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustbench_cli import attacks, defenses
from robustbench_cli.benchmarks import datasets, models
from robustbench_cli.benchmarks.suites.load import suite_names
from robustbench_cli.cli.catalog import card

NAMES = {
    # What a command of its own runs is an attack too.
    "attack": lambda: sorted([*attacks.registry.names(), "reprogramming"]),
    "defense": defenses.registry.names,
    "dataset": datasets.registry.names,
    "model": models.registry.names,
    "suite": suite_names,
}


@pytest.mark.parametrize("kind", NAMES)
def test_every_name_is_listed_with_what_it_is(advdef: Callable[..., Any], kind: str) -> None:
    """Both formats name everything that is registered, each with one line on what it is."""
    names = NAMES[kind]()
    ended = advdef("list", f"{kind}s")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split(maxsplit=1) for line in ended.out.splitlines()]
    ended = advdef("list", f"{kind}s", "--format", "json")
    assert (ended.code, ended.err) == (0, "")
    assert [name for name, _ in lines] == names
    assert json.loads(ended.out) == [{"name": name, "summary": summary} for name, summary in lines]


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
