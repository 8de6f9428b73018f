"""The verbs of the Python interface take names, and show their progress where someone looks."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import advdef
from robustbench_cli.attacks import registry as attacks
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses

PIXELS, LABELS = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_every_attack_and_defense_has_its_name() -> None:
    """A name gives the class of the command line, with its default parameters."""
    for name in attacks.names():
        if not any(field.is_required() for field in attacks.load(name).model_fields.values()):
            assert type(advdef.attack(name)) is attacks.load(name)
    for name in defenses.names():
        assert type(advdef.defense(name)) is defenses.load(name)


def test_parameters_are_checked() -> None:
    """As in the class."""
    assert advdef.attack("pgd", steps=7) == advdef.PGD(steps=7)
    assert advdef.defense("hrs", channels=[3, 3]) == advdef.HRS(channels=(3, 3))
    for call, message in (
        (lambda: advdef.attack("pdg"), "unknown attack 'pdg': did you mean 'pgd'"),
        (lambda: advdef.defense("hsr"), "unknown defense 'hsr': did you mean 'hrs'"),
        (lambda: advdef.attack("pgd", stpes=3), "PGD has no parameter 'stpes': did you mean 'steps'"),
        (lambda: advdef.attack("pgd", eps=0.1), "it goes into the call"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_a_defense_is_put_around_a_model_by_its_name(model: nn.Module) -> None:
    """``defend`` takes the name in the place of the defense."""
    protected = advdef.defend(model, "feature-squeezing", (PIXELS, LABELS))
    assert torch.equal(protected(PIXELS), advdef.defend(model, advdef.FeatureSqueezing(), (PIXELS, LABELS))(PIXELS))
    with pytest.raises(UserError, match="unknown defense 'jepg': did you mean 'jpeg'"):
        advdef.defend(model, "jepg", (PIXELS, LABELS))


def test_a_script_shows_nothing_and_a_notebook_a_bar_for_each_attack(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar of a notebook is one element that is updated; ``progress=False`` shows none."""
    advdef.evaluate(model, PIXELS, LABELS, attack="fgsm", eps=0.1)
    assert capsys.readouterr() == ("", "")
    shown: list[tuple[str, str]] = []

    class Handle:
        def update(self, bar: Any) -> None:
            shown.append(("update", bar.data))

    def display(bar: Any, *, display_id: bool) -> Handle:
        shown.append(("display", bar.data))
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    page = SimpleNamespace(HTML=lambda data: SimpleNamespace(data=data), display=display)
    monkeypatch.setitem(sys.modules, "IPython.display", page)
    advdef.evaluate(model, PIXELS, LABELS, attack=["fgsm", advdef.attack("none")], eps=0.1)
    assert [kind for kind, _ in shown] == ["display", "update"] * 2
    assert shown[1][1] == '<progress value="6" max="6"></progress> fgsm: 6 of 6 images'
    advdef.certify(model, PIXELS, LABELS, eps=0.01)
    assert shown[-1][1] == '<progress value="6" max="6"></progress> certify: 6 of 6 images'
    shown.clear()
    advdef.evaluate(model, PIXELS, LABELS, attack="fgsm", eps=0.1, progress=False)
    assert shown == []


def test_a_function_gets_the_number_of_images(model: nn.Module) -> None:
    """As the context of an evaluation takes it."""
    done: list[int] = []
    advdef.evaluate(model, PIXELS, LABELS, attack="fgsm", eps=0.1, progress=done.append)
    assert done == [6]
    advdef.certify(model, PIXELS, LABELS, eps=0.01, progress=done.append)
    assert done[-1] == 6
