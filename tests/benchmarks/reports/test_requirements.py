from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustbench_cli.benchmarks.reports.gate_options import GATES
from robustbench_cli.benchmarks.reports.requirements import Requirement, judge, parse_entry, parse_requirement
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.strict_yaml import Position

from .pipeline_files import table

GATE = {gate.name: gate for gate in GATES}


def entry(value: Any, folder: Path = Path()) -> Requirement:
    return parse_entry(value, location="gate.yaml, line 3", position=Position(str(folder / "gate.yaml"), 3))


def outcomes(requirement: Requirement, *rows: dict[str, Any], **verdicts: Any) -> list[str]:
    return [judgment.outcome for judgment in judge(requirement, table(*rows), **verdicts).judgments]


def test_a_limit_in_a_suite_knows_its_direction() -> None:
    """Higher accuracies are better, and lower success rates."""
    assert entry("robust_accuracy_low=0.38").gate is GATE["fail-under"]
    assert entry("attack_success_rate=0.6").label == "--fail-over attack_success_rate=0.6"
    assert entry({"fail-under": "n=500"}).position == ("gate.yaml", 3)


def test_where_selects_the_rows_of_a_gate() -> None:
    """The others are not judged, by --where's own words."""
    gate = entry({"fail_under": "robust_accuracy=0.6", "where": ["defense=hrs", "attack=pgd"]})
    assert outcomes(gate, {}, {"defense": "hrs(channels=[5,5])"}, {"defense": "hrs", "attack": "cw"}) == ["failed"]
    assert gate.label == "--fail-under robust_accuracy=0.6 --where defense=hrs --where attack=pgd"


def test_a_baseline_in_a_suite_is_relative_to_its_folder(tmp_path: Path) -> None:
    """As its checkpoints and suites."""
    table({"robust_accuracy": 0.6}).to_csv(tmp_path / "main.csv", index=False)
    gate = entry({"max-drop": "robust_accuracy=5%", "baseline": "main.csv"}, tmp_path)
    assert outcomes(gate, {"robust_accuracy": 0.58}) == ["passed"]
    assert outcomes(gate, {"robust_accuracy": 0.5}) == ["failed"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("robust=0.4", "fail-under 'robust=0.4': unknown column 'robust': did you mean 'robust_accuracy'"),
        ("n=500", "gates: in n neither higher nor lower is better: give {fail-under: n=500} or {fail-over: n=500}"),
        ({"fail-undr": "n=5"}, "gates: unknown key 'fail-undr': did you mean 'fail-under'"),
        ({"where": "attack=pgd"}, "gates: give an entry one gate"),
        ({"fail-over": "robust_accuracy=0.4"}, "higher is better in robust_accuracy: give fail-under: robust"),
        ({"fail-under": 0.4}, "gates: fail-under is 0.4: give one text"),
        ({"max-drop": "robust_accuracy=5%"}, "gates: 'baseline: FILE.csv' and max-drop or max-rise need each other"),
        ({"fail-on-flag": "no-eto"}, "fail-on-flag 'no-eto': unknown flag 'no-eto': did you mean 'no-eot'"),
        ({"fail-on-verdict": "bad"}, "fail-on-verdict 'bad': unknown verdict 'bad'"),
        ({"fail-on-flag": "any", "where": {"a": 1}}, "gates: where is {'a': 1}: give a condition"),
        ({"fail-on-flag": "any", "where": "atack=pgd"}, "where 'atack=pgd': unknown column 'atack': did you mean"),
    ],
)
def test_a_mistake_in_a_suite_is_named_with_its_line(value: Any, message: str) -> None:
    """With what would be right."""
    with pytest.raises(UserError) as raised:
        entry(value)
    assert str(raised.value).startswith("gate.yaml, line 3: ")
    assert message in str(raised.value)


def test_a_flag_fails_a_gate() -> None:
    """The named one, or any."""
    rows = ({}, {"flags": "no-eot;unstable"}, {"flags": "unstable"})
    assert outcomes(parse_requirement(GATE["fail-on-flag"], "no-eot"), *rows) == ["passed", "failed", "passed"]
    assert outcomes(parse_requirement(GATE["fail-on-flag"], "any"), *rows) == ["passed", "failed", "failed"]
    assert outcomes(parse_requirement(GATE["fail-on-flag"], "any")) == ["missing"]


@pytest.mark.parametrize(
    ("worst", "expected"), [("broken", ["passed", "passed", "failed"]), ("suspicious", ["passed", "failed", "failed"])]
)
def test_a_verdict_fails_a_gate(worst: str, expected: list[str]) -> None:
    """Of the rows' model, data and norm; a row without an audit cannot be judged, and a mean has none."""
    names = ("consistent", "suspicious", "broken")
    rows = [{"checkpoint_sha256": name} for name in names]
    verdicts = {(name, "digits", "", "linf"): (name, "evidence") for name in names}
    gate = parse_requirement(GATE["fail-on-verdict"], worst)
    assert outcomes(gate, *rows, verdicts=verdicts) == expected
    assert outcomes(gate, {"corruption": "mean"}, {"norm": "l2"}, verdicts=verdicts) == ["missing"]
