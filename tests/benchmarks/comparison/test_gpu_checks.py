from __future__ import annotations

import pytest
import torch

from robustbench_cli.benchmarks.comparison.gpu_checks import (
    attack_beside_cpu,
    attack_with,
    comparable,
    defense_beside_cpu,
    defense_with,
    small,
)
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


def test_the_cpu_beside_itself() -> None:
    """An attack on the CPU finds what it finds there, and so does an evaluation; tests/pretended has another device."""
    assert attack_beside_cpu("pgd", "linf", "cpu") == {"broken": 1, "other_predictions": 0, "other_distances": 0}
    figures = defense_beside_cpu("gaussian-noise", "cpu")
    assert figures["cpu"] == pytest.approx(figures["device"], nan_ok=True)


def test_only_parameters_that_a_method_has_are_given() -> None:
    """A transfer attack gets its surrogate."""
    model, images, labels = small()
    assert torch.equal(model(images).argmax(1), labels)
    assert attack_with("pgd", model, steps=7, queries=5).model_dump()["steps"] == 7
    assert vars(attack_with("transfer", model, steps=7))["surrogate"] is model
    assert defense_with("macer").model_dump()["draws"] == 2


def test_the_figures_of_an_evaluation_hold_no_time() -> None:
    """So they are equal if the evaluation runs again."""
    model, images, labels = small()
    first, second = (
        comparable(evaluate(model, images, labels, attack=attack_with("fgsm", model), eps=0.1)) for _ in range(2)
    )
    assert first == second
    assert first["clean_accuracy"] == 1
