from __future__ import annotations

import inspect
import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from robustbench_cli.attacks.base.models.decision import RejectionLayer
from robustbench_cli.attacks.base.models.user_code import code_of, has_user_code, replaced_names

root = math.sqrt


class Layer(nn.Module):
    """A layer of a user."""

    root = math.sqrt


def test_only_a_user_s_files_count() -> None:
    """The layers of torch do not; each module and class comes once."""
    model = nn.Sequential(Layer(), nn.Linear(2, 2), Layer())
    assert code_of(model) == [sys.modules[__name__], Layer]
    assert code_of(nn.Sequential(nn.Linear(2, 2))) == []


def test_the_project_s_classes_are_no_user_s() -> None:
    """Also in a checkout, where they are in no folder of libraries."""
    layers = nn.Sequential(RejectionLayer(), nn.Linear(2, 2))
    assert not has_user_code(layers)
    assert has_user_code(layers.append(Layer()))


@pytest.mark.parametrize(
    ("file", "is_own"),
    [
        ("/home/me/project/net.py", True),
        ("/home/me/.local/lib/python3.11/site-packages/net.py", False),
        ("/usr/lib/python3/dist-packages/lib/net.py", False),
        (inspect.__file__, False),
    ],
)
def test_libraries_of_the_user_and_of_the_system_do_not_count(
    file: str, is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment may use them beside its own."""
    monkeypatch.setattr(sys.modules[__name__], "__file__", file)
    assert bool(code_of(Layer())) == is_own


def test_names_are_replaced_for_a_while() -> None:
    """In modules, classes and objects; also where an error ends it."""
    layer, other = SimpleNamespace(root=math.sqrt, power=math.pow), object()
    places = [sys.modules[__name__], Layer, layer]

    def values() -> list[Any]:
        return [root, Layer.root, layer.root]

    with pytest.raises(KeyError), replaced_names(places, lambda value: other if value is math.sqrt else value):
        assert values() == 3 * [other]
        assert layer.power is math.pow
        raise KeyError
    assert values() == 3 * [math.sqrt]
