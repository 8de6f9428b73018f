from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.suites.config import AttackEntry
from robustbench_cli.benchmarks.suites.grid import attack_choices, attack_class, error_location, variants
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.benchmarks.suites.suite import Suite
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.hrs import HRS


def test_an_entry_may_name_its_norms(tmp_path: Path) -> None:
    """An attack runs in the norms of its entry alone; a norm that it does not support is an error."""
    path = tmp_path / "mine.yaml"
    path.write_text("attacks: [pgd, {name: fmn, norm: l1}, {name: fab, norm: [l1, l2]}]")
    (group,) = read_suite(str(path)).groups
    wanted = {"linf": ["pgd"], "l2": ["pgd", "fab"], "l1": ["pgd", "fmn", "fab"]}
    choices = [choice for member in group.attacks for choice in attack_choices(member)]
    for norm, names in wanted.items():
        suite = Suite(dataset="digits", n=1, attacks=choices, norm=norm, eps=[parse_eps("0.1")])  # type: ignore[arg-type]
        assert [attack.spec.name for attack, _, _ in suite.threats(usual_eps="0.1")] == names
    path.write_text("attacks: [{name: fmn, norm: l7}]")
    with pytest.raises(UserError, match=r"line 1: attacks.0.norm"):
        read_suite(str(path))
    path.write_text("attacks: [{name: square, norm: l0}]")
    with pytest.raises(UserError, match="square does not support the norm l0 \\(it supports linf, l2, l1\\)"):
        attack_choices(read_suite(str(path)).entries[0])


@pytest.mark.parametrize(
    ("settings", "parameters", "expected"),
    [
        (PGD, {}, [{}]),
        (PGD, {"steps": 3}, [{"steps": 3}]),
        (PGD, {"steps": [3, 4], "step_size": ["2/255"]}, [{"steps": n, "step_size": 2 / 255} for n in (3, 4)]),
        (HRS, {"channels": [5, 5]}, [{"channels": [5, 5]}]),
        (HRS, {"channels": [[5, 5], [3, 3]]}, [{"channels": [5, 5]}, {"channels": [3, 3]}]),
        (PGD, {"unknown": [1, 2]}, [{"unknown": [1, 2]}]),
    ],
)
def test_a_list_for_a_single_value_is_a_dimension(
    settings: Any, parameters: dict[str, Any], expected: list[dict[str, Any]]
) -> None:
    """A list that is itself a value is not; a fraction is a number; an unknown key is left for its error."""
    assert list(variants(settings, parameters)) == expected


def test_an_attack_has_a_choice_for_each_combination() -> None:
    """A choice has the norms, the kind and the draws of its attack."""
    choices = attack_choices(AttackEntry(name="pgd", steps=[3, 4], restarts=[1, 2], norm=["l2"], eot=5))  # type: ignore[call-arg,arg-type]
    assert [(choice.spec.parameters["steps"], choice.spec.parameters["restarts"]) for choice in choices] == [
        *((3, 1), (3, 2)),
        *((4, 1), (4, 2)),
    ]
    assert {(choice.norms, choice.limited, choice.minimal_norm, choice.eot) for choice in choices} == {
        (("l2",), True, False, 5)
    }
    (cw,) = attack_choices(AttackEntry(name="cw"))
    assert (cw.minimal_norm, cw.limited, cw.eot, cw.any_precision) == (True, False, "auto", False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pdg", "mine.yaml, line 2: unknown attack 'pdg': did you mean 'pgd'"),
        ("reprogramming", "mine.yaml, line 2: reprogramming has a command of its own"),
    ],
)
def test_an_attack_that_no_suite_can_have(name: str, message: str) -> None:
    """The error begins with the file and line of the entry."""
    with pytest.raises(UserError, match=message):
        attack_class(AttackEntry(name=name).at("mine.yaml, line 2"))


def test_an_error_without_a_location_stays_as_it_is() -> None:
    """The command line has no file and line."""
    with pytest.raises(UserError, match=r"^wrong$"), error_location(""):
        raise UserError("wrong")
    with pytest.raises(UserError, match=r"^line 1: wrong$"), error_location("line 1"):
        raise UserError("wrong")
