from __future__ import annotations

from robustbench_cli.benchmarks.reports.cases import CELL, SuitePositions, gate_cases, row_cases
from robustbench_cli.benchmarks.reports.gate_options import gate_with
from robustbench_cli.benchmarks.reports.requirements import judge, parse_requirement
from robustbench_cli.core.strict_yaml import Position

from .pipeline_files import table

POSITIONS = SuitePositions(Position("gate.yaml", 1), {"pgd": Position("gate.yaml", 7)})


def test_a_gate_has_a_case_for_each_row() -> None:
    """It fails on one of two rows; its identity does not depend on the value, or on the checkpoint."""
    gate = parse_requirement(gate_with(upper=False, baseline=False), "robust_accuracy=0.4")
    rows = table({}, {"robust_accuracy": 0.3, "attack": "fgsm"})
    passed, failed = gate_cases(gate, judge(gate, rows), positions=POSITIONS)
    assert (passed.rule, passed.outcome, failed.outcome, failed.severity) == ("fail-under", "passed", "failed", "error")
    assert failed.name == "--fail-under robust_accuracy=0.4: digits small-cnn none fgsm linf eps 8/255 n 500"
    assert failed.message == "robust_accuracy 0.3 is below 0.4"
    assert failed.position == ("gate.yaml", 1)
    later = rows.assign(checkpoint="b.safetensors", cell="4567", robust_accuracy=0.2)
    assert gate_cases(gate, judge(gate, later))[1].identity == failed.identity != passed.identity
    assert gate_cases(gate, judge(gate, rows), informational=True)[1].severity == "warning"


def test_a_gate_without_a_row_is_an_error() -> None:
    """It cannot be judged."""
    gate = parse_requirement(gate_with(upper=False, baseline=False), "robust_accuracy=0.4")
    (case,) = gate_cases(gate, judge(gate, table()))
    assert (case.outcome, case.name) == ("error", "--fail-under robust_accuracy=0.4")


def test_a_cell_has_a_case_with_its_line_in_the_suite() -> None:
    """An attack that a suite does not name, as a worst case, has the first line."""
    rows = table({"attack": "pgd(steps=5)", "flags": "no-eot;unstable"}, {"attack": "worst-case", "cell": "1"})
    first, second = row_cases(rows, positions=POSITIONS)
    assert (first.rule, first.outcome, first.flags) == (CELL, "passed", ["no-eot", "unstable"])
    assert [case.position and case.position.line for case in (first, second)] == [7, 1]
    assert "robust_accuracy 0.5 [0.5, 0.5], flags no-eot;unstable" in first.message
    (failed,) = row_cases(rows.head(1), "error", reasons=["out of memory"])
    assert (failed.outcome, failed.message, failed.flags) == ("error", "out of memory", ())
