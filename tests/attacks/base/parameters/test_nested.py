from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import Field

from robustbench_cli.attacks.base.parameters.nested import NestedAttack
from robustbench_cli.attacks.mi_fgsm import MIFGSM
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings


class Outer(Settings):
    """A method with an attack as its parameter."""

    paper: ClassVar[str] = "none"

    attack: NestedAttack = Field("pgd", description="an attack")  # type: ignore[assignment]


def test_a_name_and_a_mapping_are_an_attack() -> None:
    """The default, a name, a mapping with parameters, and an attack itself."""
    assert Outer().attack == PGD()
    assert Outer(attack="mi-fgsm").attack == MIFGSM()
    assert Outer(attack={"name": "mi-fgsm", "steps": 3}).attack == MIFGSM(steps=3)
    assert Outer(attack=PGD(steps=7)).attack == PGD(steps=7)


def test_an_attack_survives_json() -> None:
    """Its data name it and give all of its parameters, and build an equal one."""
    data = Outer(attack=MIFGSM(steps=3)).model_dump(mode="json")
    assert data["attack"]["name"] == "mi-fgsm"
    assert data["attack"]["steps"] == 3
    assert Outer.from_parameters(data, name="outer") == Outer(attack=MIFGSM(steps=3))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"steps": 3}, "give the name of an attack, alone or as in"),
        ("package.module:Attack", "give one of the project's own attacks"),
        ("pdg", "did you mean 'pgd'"),
        ({"name": "pgd", "step": 3}, "pgd has no parameter 'step'"),
    ],
)
def test_what_is_no_attack_of_the_project_is_one_line(value: Any, message: str) -> None:
    """Also a user's own, whose code a cell's hash would not cover."""
    with pytest.raises(UserError, match=message):
        Outer.from_parameters({"attack": value}, name="outer")
