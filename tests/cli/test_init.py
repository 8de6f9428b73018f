from __future__ import annotations

import pytest

import robustbench_cli
from robustbench_cli import _PLACES


@pytest.mark.parametrize("name", [*_PLACES])
def test_every_name_of_the_python_interface_is_there(name: str) -> None:
    """A name that the package offers is the object of that name in its module."""
    assert name in dir(robustbench_cli)
    assert getattr(robustbench_cli, name).__name__ == name


def test_other_names_are_refused_as_by_any_module() -> None:
    """A name that is not offered is an AttributeError, so that hasattr and import behave."""
    assert not hasattr(robustbench_cli, "PDG")
    with pytest.raises(ImportError, match="PDG"):
        exec("from robustbench_cli import PDG")
    for name, meant in (("PDG", "PGD"), ("load_data", "load_dataset"), ("HSR", "HRS"), ("pgd", "PGD")):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}': did you mean '{meant}'"):
            getattr(robustbench_cli, name)
