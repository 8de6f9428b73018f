from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports.columns import gated_columns
from robustbench_cli.benchmarks.reports.gate_options import GATES, Gate
from robustbench_cli.benchmarks.reports.requirements import Requirement, judge, parse_entry, parse_requirement
from robustbench_cli.benchmarks.reports.verdicts import AuditedVerdict, VerdictKey
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
    for mean in ("mean", "mean(5 of 75)"):
        assert outcomes(gate, {"corruption": mean}, {"norm": "l2"}, verdicts=verdicts) == ["missing"]


@pytest.mark.parametrize(
    ("gate", "text", "told"),
    [
        ("max-drop", "des=1%", "neither the baseline nor the table has a des to compare"),
        (
            "max-drop",
            "mean_corruption_accuracy=1%",
            "neither the baseline nor the table has a mean_corruption_accuracy",
        ),
        ("max-drop", "mean_l2=1%", "neither the baseline nor the table has a mean_l2 to compare"),
        ("max-drop", "certified_accuracy=1%", "neither the baseline nor the table has a certified_accuracy"),
        ("fail-under", "des=2", "no row needs a des: choose rows of defended models"),
    ],
)
def test_a_limit_that_judges_no_row_does_not_pass(gate: str, text: str, told: str) -> None:
    """An undefended model without means or certificates has none of these figures, now or before."""
    rows = table({"mean_l2": None})
    requirement = parse_requirement(GATE[gate], text)
    if requirement.gate.baseline:
        requirement = replace(requirement, baseline=rows.assign(certified_accuracy=None))
    (line,) = judge(requirement, rows).missing
    assert line.startswith(f"--{gate} {text}: {told}")


def test_a_gate_on_verdicts_that_judges_no_row_does_not_pass() -> None:
    """The mean over corruptions has no verdict: alone it cannot be judged, beside another row it does not matter."""
    gate = parse_requirement(GATE["fail-on-verdict"], "broken", where={"corruption": ["mean"]})
    verdicts: dict[VerdictKey, AuditedVerdict] = {("x", "digits", "", "linf"): ("consistent", "")}
    (line,) = judge(gate, table({"corruption": "mean", "checkpoint_sha256": "x"}), verdicts).missing
    assert line.startswith("--fail-on-verdict broken --where corruption=mean: ")
    assert "there are only their means" in line


def test_every_gate_judges_a_row_or_cannot_be_judged() -> None:
    """Whatever a gate is on, a row without a figure, and no row, have a judgment; each column has a limit each way."""
    for rows in (table({"robust_accuracy": None}), table({"corruption": "mean"}), table()):
        for gate in GATES:
            for text in _values_of(gate):
                requirement = parse_requirement(gate, text)
                if gate.baseline:
                    requirement = replace(requirement, baseline=rows.reindex(columns=[*rows, *_lacking(rows)]))
                assert judge(requirement, rows.reindex(columns=[*rows, *_lacking(rows)])).judgments, (gate.name, text)


def _lacking(rows: pd.DataFrame) -> list[str]:
    return [name for name in gated_columns() if name not in rows]


def _values_of(gate: Gate) -> list[str]:
    """Every value of a gate that its parser takes."""
    if gate.kind != "limit":
        return ["any" if gate.kind == "flag" else "broken"]
    allowed = []
    for name in gated_columns():
        with suppress(UserError):
            parse_requirement(gate, f"{name}=0.5")
            allowed.append(f"{name}=0.5")
    assert len(allowed) > 3
    return allowed
