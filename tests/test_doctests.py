"""The examples in the docstrings of the public functions work as shown."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = [
    "advdef",
    "robustbench_cli.attacks.base.eps",
    "robustbench_cli.attacks.base.losses",
    "robustbench_cli.attacks.base.threat",
    "robustbench_cli.attacks.pgd",
    "robustbench_cli.benchmarks.evaluation.statistics.efficiency",
    "robustbench_cli.benchmarks.evaluation.statistics.intervals",
    "robustbench_cli.benchmarks.evaluation.statistics.paired",
    "robustbench_cli.benchmarks.evaluation.statistics.protocols",
    "robustbench_cli.benchmarks.evaluation.statistics.sample_size",
    "robustbench_cli.benchmarks.evaluation.statistics.sequential",
    "robustbench_cli.defenses.hrs",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_work(name: str) -> None:
    """There are examples, and each gives what it shows."""
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0
