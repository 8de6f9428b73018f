from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.benchmarks.suites.config import AttackEntry, AttackGroup, DefenseConfig, SuiteConfig
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.core.errors import UserError

from .conftest import GRID


def test_a_sweep_is_a_grid(tmp_path: Path) -> None:
    """Every list is a dimension, a single value is a list of one, and a list inside a list is a chain."""
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    config = read_suite(str(path))
    assert (config.dataset, config.n, config.targeted) == (("digits",), (100, 200), ("no",))
    assert [eps.text for eps in config.eps or ()] == ["2/255", "0.1"]
    assert [[entry.name or str(entry.checkpoint) for entry in chain] for chain in config.defenses] == [
        ["none"],
        ["hrs"],
        ["a.safetensors"],
        ["rse", "jpeg"],
    ]
    assert config.defenses[1][0].parameters == {"channels": [5, 5]}
    assert [member.eot for member in config.entries] == [None, 1, "exact"]
    assert config.exclude == ({"defense": ("hrs",), "eps": ("2/255",)},)
    assert [member.location for member in config.entries] == [f"{path}, line 5"] * 3


def test_to_attack_with_a_suite_names_attacks_alone(tmp_path: Path) -> None:
    """A key that only a sweep can use is an error with its line, also in a nested suite; so is a suite without attacks."""
    path = tmp_path / "mine.yaml"
    path.write_text("attacks: [pgd]\nn: 5")
    with pytest.raises(UserError, match="line 2: 'n' is not for --suite"):
        read_suite(str(path)).require_attacks_only("mine.yaml")
    (tmp_path / "outer.yaml").write_text("attacks: [{suite: mine.yaml}]")
    with pytest.raises(UserError, match=r"mine.yaml, line 2: 'n'"):
        read_suite(str(tmp_path / "outer.yaml"))
    path.write_text("{}")
    with pytest.raises(UserError, match="has no attacks"):
        read_suite(str(path)).require_attacks_only("mine.yaml")


def test_options_that_are_not_set_keep_their_defaults() -> None:
    """``None`` and an empty tuple set nothing; one value becomes a list of one; the command line has no locations."""
    group = AttackGroup(attacks=(AttackEntry(name="pgd"),))
    config = SuiteConfig.from_options(
        groups=[group], dataset="digits", n=5, eps=(parse_eps("1/4"),), norm=None, decision=(), targeted="next"
    )
    assert config.model_fields_set == {"dataset", "n", "eps", "targeted"}
    assert (config.dataset, config.n, config.norm, config.decision) == (("digits",), (5,), None, None)
    assert config.defenses == ((DefenseConfig(name="none"),),)
    assert (config.groups, config.entries) == ((group,), group.attacks)
    assert (config.location("n"), config.prefix("n")) == ("", "")


def test_evaluation_options_are_combined() -> None:
    """Each combination of the values that are set, and the default of the others."""
    config = SuiteConfig.from_options(targeted=("no", "all"), repeats=(3, 4))
    combinations = [(options.targeted, options.repeats, options.precision) for options in config.grid_options()]
    assert combinations == [
        ("no", 3, "tf32"),
        ("no", 4, "tf32"),
        ("all", 3, "tf32"),
        ("all", 4, "tf32"),
    ]
    assert len(SuiteConfig.from_options().grid_options()) == 1


def test_options_of_a_command_line_override_an_entry() -> None:
    """Its parameters are replaced, but draws that the suite sets are not; its location stays."""
    entry = AttackEntry(name="pgd", steps=3, restarts=2).at("suite.yaml, line 4")  # type: ignore[call-arg]
    changed = entry.with_options({"steps": 7}, eot=5)
    assert (changed.parameters, changed.eot, changed.location) == (
        {"steps": 7, "restarts": 2},
        5,
        "suite.yaml, line 4",
    )
    assert AttackEntry(name="pgd", eot="exact").with_options({}, eot=5).eot == "exact"
    assert entry.parameters == {"steps": 3, "restarts": 2}


def test_keys_of_a_defense_are_its_parameters() -> None:
    """A checkpoint's ``mean`` is a field; a defense's is a parameter."""
    assert DefenseConfig(name="hrs", channels=[5, 5], classes=3).parameters == {"channels": [5, 5], "classes": 3}  # type: ignore[call-arg]
    assert DefenseConfig(checkpoint=Path("a.safetensors"), classes=3).parameters == {}
