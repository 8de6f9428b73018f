from __future__ import annotations

import pytest

from robustbench_cli.defenses import registry
from robustbench_cli.defenses.base.families import family_label


@pytest.mark.parametrize("name", [name for name in registry.names() if registry.module_of(name)])
def test_the_family_is_that_of_the_class(name: str) -> None:
    """Also where the source is read and not imported."""
    assert family_label([name]) == registry.load(name).family != "own"


def test_several_defenses_of_one_family() -> None:
    """It is named once."""
    assert family_label(["noise-injection", "random-resize-pad", "hrs"]) == "random-input+random-layers"
    assert family_label([]) == "none"
