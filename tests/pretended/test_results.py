"""Attacks, defenses, trainings and evaluations on a pretended device give the results of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.defenses import registry as defenses

Passed = Callable[[str, str], dict[str, Any]]


@pytest.mark.parametrize("name", [f"{name} {norm}" for name in attacks.names() for norm in attacks.load(name).norms])
def test_an_attack_finds_the_same(name: str, passed: Passed) -> None:
    """On the second of two devices it meets no tensor of another device, and finds what it finds on the CPU."""
    figures = passed("attacks", name)
    assert figures["other_predictions"] == 0
    assert figures["other_distances"] < 1e-5


def test_attacks_that_find_something_are_compared(passed: Passed) -> None:
    """Most of them break an image, so that equal results say something."""
    names = [f"{name} {norm}" for name in attacks.names() for norm in attacks.load(name).norms]
    assert sum(passed("attacks", name)["broken"] > 0 for name in names) > len(names) / 2


@pytest.mark.parametrize("name", defenses.names())
def test_an_evaluation_of_a_defense_gives_the_same(name: str, passed: Passed) -> None:
    """``evaluate(..., device="cuda:1")`` gives the figures and the flags of the CPU."""
    figures = passed("defenses", name)
    assert figures["device"] == pytest.approx(figures["cpu"], nan_ok=True)


def test_an_evaluation_of_a_model_in_memory_gives_the_same(passed: Passed) -> None:
    """``advdef.evaluate(..., device="cuda:1")`` gives the robust accuracy of the CPU."""
    figures = passed("interface", "pgd")
    assert figures["device"] == figures["cpu"]


@pytest.mark.parametrize("name", [name for name in defenses.names() if defenses.load(name).trains])
def test_a_training_seldom_waits(name: str, passed: Passed) -> None:
    """An epoch of two batches waits for the device to read its loss, and for little else."""
    assert passed("training", name)["synchronizations"] <= 5


def test_batches_are_halved_while_the_memory_is_too_small(passed: Passed) -> None:
    """The evaluation goes on with fewer rows at once, to the same result."""
    figures = passed("memory", "pgd")
    assert figures["out_of_memory"] >= 1
    assert figures["device"] == pytest.approx(figures["cpu"], nan_ok=True)
