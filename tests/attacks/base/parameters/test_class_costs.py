from __future__ import annotations

from typing import Any

import pytest
import torch

from robustbench_cli.attacks.base.parameters.class_costs import ClassCosts
from robustbench_cli.core.errors import UserError

NAMES = ("dog", "Cat", "emu")


def test_the_matrix_entry_by_entry() -> None:
    """Each entry follows from the definition: the diagonal, the rows of protected classes, false alarms, and the rest."""
    method = ClassCosts(protected=[1, 3], cost=7, false_alarm=2.5)
    matrix = method.costs(torch.arange(5), 5)
    for true in range(5):
        for answer in range(5):
            expected = 7 if true in {1, 3} else 2.5 if answer in {1, 3} else 1
            assert matrix[true, answer] == (0 if true == answer else expected)
    labels = torch.tensor([3, 0, 3, 4])
    assert torch.equal(method.costs(labels, 5), matrix[labels])


def test_names_and_numbers_are_the_same_classes() -> None:
    """Names in any case; one class needs no list."""
    assert ClassCosts(protected=["cat", 2]).for_classes(3, NAMES, name="csa").protected == (1, 2)
    assert ClassCosts(protected="Emu").for_classes(None, NAMES, name="csa").protected == (2,)
    assert ClassCosts(protected=0).protected == (0,)


@pytest.mark.parametrize(
    ("protected", "names", "line"),
    [
        (["cta"], NAMES, "csa.protected has the class 'cta', which does not exist: did you mean 'Cat'"),
        (["cat"], None, "csa.protected has the class 'cat', and the data name no classes: give its number, 0 to 2"),
        ([3], NAMES, "csa.protected has the class 3, which does not exist: give numbers, 0 to 2"),
        ([0, -1], None, "csa.protected has the class -1, which does not exist: give numbers, 0 to 2"),
    ],
)
def test_a_class_that_does_not_exist_is_one_line(
    protected: list[int | str], names: tuple[str, ...] | None, line: str
) -> None:
    with pytest.raises(UserError) as caught:
        ClassCosts(protected=protected).for_classes(3, names, name="csa")
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("protected", [True], r"^csa\.protected is \[True\]: give names or numbers of classes$"),
        ("protected", False, r"^csa\.protected is False: give names or numbers of classes$"),
        ("cost", 1e39, r"^csa\.cost is 1e\+39: input should be less than or equal to 1000000$"),
        ("false_alarm", 1e-60, r"^csa\.false_alarm is 1e-60: input should be greater than or equal to 0.000001$"),
    ],
)
def test_what_is_no_class_and_no_cost(key: str, value: Any, line: str) -> None:
    """A truth value is not the class 1, and a cost that float32 takes for 0 would make an error free."""
    with pytest.raises(UserError, match=line):
        ClassCosts.from_parameters({key: value}, name="csa")


def test_a_name_that_nobody_looked_up_is_no_class() -> None:
    with pytest.raises(UserError, match=r"ClassCosts\.protected has the class 'cat', and the data name no classes"):
        ClassCosts(protected=["cat"]).costs(torch.arange(3), 3)
