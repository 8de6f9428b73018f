from __future__ import annotations

import pytest

from robustbench_cli.benchmarks.reports.gate_options import GATES, Gate, gate_with


@pytest.mark.parametrize("gate", [gate for gate in GATES if gate.kind == "limit"], ids=lambda gate: gate.parameter)
def test_each_kind_of_limit_has_one_gate(gate: Gate) -> None:
    """The direction and the baseline identify the option."""
    assert gate_with(upper=gate.upper, baseline=gate.baseline) is gate


def test_the_option_names_its_parameter() -> None:
    """As click derives it from the option."""
    assert [gate.parameter for gate in GATES] == [
        "fail_under",
        "fail_over",
        "fail_on_flag",
        "fail_on_verdict",
        "max_drop",
        "max_rise",
    ]
