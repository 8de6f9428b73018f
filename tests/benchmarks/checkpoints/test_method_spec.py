from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.core.errors import UserError


def test_a_method_goes_through_data_unchanged() -> None:
    """With all its parameters; the label names those that the user changed."""
    attack = PGD(steps=7)
    spec = MethodSpec.of(attack, name="pgd")
    assert spec.changed == ("steps",)
    assert spec.label == "pgd(steps=7)"
    assert set(spec.parameters) == set(PGD.model_fields)
    assert MethodSpec.model_validate_json(spec.model_dump_json()).build(registry) == attack
    assert MethodSpec.of(PGD(), name="pgd").label == "pgd"


def test_the_identity_has_no_path_of_a_users_file() -> None:
    """The content of the file counts, and the name of the object in it."""
    here, there = (MethodSpec(name=f"{folder}/own.py:Mine", source="a" * 64) for folder in ("here", "there"))
    assert here.identity == there.identity == {"name": "Mine", "parameters": {}, "source": "a" * 64}


@pytest.mark.parametrize("changed", [("stepz",), ("attack.steps",), ("steps.more",)])
def test_a_name_that_is_no_parameter_is_refused(changed: tuple[str, ...]) -> None:
    """In a damaged file, say."""
    with pytest.raises(ValueError, match=f"'{changed[0]}' is called changed and is no parameter of pgd"):
        MethodSpec(name="pgd", parameters={"steps": 40}, changed=changed)


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    """As the registry does."""
    with pytest.raises(UserError, match="unknown attack 'pgdd': did you mean 'pgd'"):
        MethodSpec(name="pgdd").build(registry)
