from __future__ import annotations

from typing import Any

import pytest

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.reports.evidence.threat_model import installed_attack, knowledge_of, threat_model

from ...conftest import MakeCell

ROW: dict[str, Any] = {"targeted": "no", "norm": "linf", "eps": "8/255", "eps_value": 8 / 255, "corruption": None}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pgd", "white-box"),
        ("square", "black-box: score-based"),
        ("hopskipjump", "black-box: decision-based"),
        ("transfer", "black-box: transfer"),
        ("none", None),
        ("my_attack.py:Mine", None),
        ("torchattacks:PGD", None),
    ],
)
def test_knowledge_of_an_attack(name: str, words: str | None) -> None:
    """As the taxonomy sorts the attacks of the literature; code of a user is not imported."""
    assert knowledge_of(name) == words


def test_no_code_of_a_store_is_imported() -> None:
    """A stored name that is no attack of this project is not looked up anywhere."""
    assert installed_attack("os:system") is None


def test_threat_model_of_several_attacks(make_cell: MakeCell) -> None:
    """A worst case has the knowledge and the capabilities of all its attacks; a foreign one is named."""
    cells = [make_cell(attack=MethodSpec(name=name)) for name in ("pgd", "square", "mine.py:A")]
    made = threat_model(ROW | {"targeted": "next"}, cells)
    assert made["knowledge"] == ["black-box: score-based", "white-box"]
    assert made["capabilities"] == ["query access", "testing data control"]
    assert made["knowledgeNotRecorded"] == ["mine.py:A"]
    assert made["goal"] == "targeted misclassification (next)"
    assert made["perturbation"]["budget"] == "8/255"


def test_a_row_without_an_attack_has_no_threat_model(make_cell: MakeCell) -> None:
    """A corrupted image is no adversarial one."""
    clean = make_cell(attack=MethodSpec(name="none"))
    corrupted = {"attack": None, "inputs": "common corruption"}
    assert threat_model(ROW | {"corruption": "fog"}, [clean]) == corrupted
    # A mean over corruptions has no cell of its own.
    assert threat_model(ROW | {"attack": "none", "corruption": "mean"}, []) == corrupted
    assert threat_model(ROW | {"attack": "pgd(steps=5)", "corruption": "mean"}, [])["knowledge"] == ["white-box"]
