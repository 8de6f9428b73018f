from __future__ import annotations

import json
import warnings
from typing import Any, ClassVar

import pytest
from pydantic import Field

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.non_adaptive import NonAdaptive
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings


class Renamed(Settings):
    """A method with a renamed parameter."""

    paper: ClassVar[str] = "none"

    l1_sparsity: float = Field(0.03, description="a share", json_schema_extra={"formerly": "moved"})
    steps: int = Field(40, description="steps")


BEFORE = MethodSpec(name="renamed", parameters={"moved": 0.1, "steps": 40}, changed=("moved",))
"""As it was stored before the rename."""


def test_a_rename_changes_the_label_and_not_the_identity() -> None:
    """The label has the current name, the identity the former one, whether the parameter has its default or not."""
    spec = MethodSpec.of(Renamed(l1_sparsity=0.1), name="renamed")
    assert spec.label == "renamed(l1_sparsity=0.1)"
    assert spec.identity == BEFORE.identity
    default = MethodSpec.of(Renamed(), name="renamed")
    assert default.identity["parameters"] == {"moved": 0.03, "steps": 40}
    assert MethodSpec.model_validate_json(spec.model_dump_json()) == spec


def test_an_old_file_gets_the_current_names() -> None:
    """What was stored before the rename is what would be stored today, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        renamed = BEFORE.renamed(Renamed)
    assert renamed == MethodSpec.of(Renamed(l1_sparsity=0.1), name="renamed")
    assert renamed.renamed(Renamed) == renamed
    assert renamed.identity == BEFORE.identity
    both = MethodSpec(name="renamed", parameters={"moved": 0.1, "l1_sparsity": 0.1})
    with pytest.raises(UserError, match="set only l1_sparsity"):
        both.renamed(Renamed)


def test_an_inner_methods_renames_count_too() -> None:
    """An attack that is a parameter of another is hashed by its former names, and labeled by its current ones."""
    spec = MethodSpec.of(NonAdaptive(attack=PGD(l1_sparsity=0.1)), name="non-adaptive")
    inner = spec.identity["parameters"]["attack"]
    assert inner["moved"] == 0.1
    assert "l1_sparsity" not in inner
    assert spec.parameters["attack"]["l1_sparsity"] == 0.1
    assert spec.label == "non-adaptive(attack.name=pgd,attack.l1_sparsity=0.1)"


def test_without_renames_the_stored_data_are_those_of_before() -> None:
    """A method that has no renamed parameter is stored without a word of renames."""
    spec = MethodSpec.of(registry.load("fgsm")(), name="fgsm")
    assert json.loads(spec.model_dump_json()).keys() == {"name", "parameters", "changed", "source", "surrogates"}


@pytest.mark.parametrize("field", ["changed", "surrogates", "formerly"])
def test_names_that_lead_to_no_parameter_are_refused(field: str) -> None:
    """A file that speaks of a parameter which the method lacks is damaged."""
    value: Any = ("size",) if field == "changed" else {"size": "x"}
    with pytest.raises(ValueError, match="'size' is called"):
        MethodSpec.model_validate({"name": "pgd", "parameters": {"steps": 1}, field: value})


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


def test_an_unknown_method_is_named() -> None:
    """As the registry does."""
    with pytest.raises(UserError, match="unknown attack 'pgdd': did you mean 'pgd'"):
        MethodSpec(name="pgdd").build(registry)
