from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.defenses import registry
from robustbench_cli.defenses.base.defense import Defense, defend
from robustbench_cli.defenses.pgd_at import PGDAT
from robustbench_cli.defenses.smoothadv import SmoothAdv

RADII = {"digits": 0.15, "fashion-mnist": 0.1, "mnist": 0.3, "cifar10": 8 / 255, "cifar100": 8 / 255, "svhn": 8 / 255}
TRAINED_FOR_IT = (
    *("pgd-at", "trades", "mart", "awp", "interpolated-at", "adv-bnn", "pni"),
    *("fast-at", "free-at", "ibp", "defensive-dropout"),
)


@pytest.mark.parametrize("name", TRAINED_FOR_IT)
@pytest.mark.parametrize("radius", RADII.values())
def test_the_radius_in_training_is_the_usual_one(name: str, radius: float) -> None:
    """The step size scales with the radius, the user's radius has priority, and the fallback is that of CIFAR-10."""
    kind = registry.load(name)
    resolved = kind().for_radius(radius)
    assert resolved.eps == resolved.radius == radius
    assert kind().radius == 8 / 255
    assert kind(eps=0.2).for_radius(radius).eps == 0.2
    assert resolved.for_radius(0.01) == resolved
    if hasattr(resolved, "pgd_step_size"):
        assert resolved.pgd_step_size / radius == pytest.approx(kind().pgd_step_size / (8 / 255))


@pytest.mark.parametrize("name", registry.names())
def test_descriptions_state_the_default(name: str) -> None:
    """Such a parameter has the default ``None``, and its description names the radius. For a data set it is a number."""
    kind = registry.load(name)
    for key in kind().radius_defaults(0.1):
        field = kind.model_fields[key]
        assert field.default is None or name == "rse"
        assert "the data set's usual" in (field.description or "") or name == "rse"
        assert isinstance(getattr(kind().for_radius(0.1), key), float | int)


def test_radii_in_l2_are_independent() -> None:
    """Data sets have no usual radius in l2: that of smoothadv defaults to its sigma."""
    assert SmoothAdv().for_radius(0.3) == SmoothAdv()
    assert SmoothAdv(sigma=0.5).radius == 0.5
    assert SmoothAdv(sigma=0.5, eps=0.1).radius == 0.1


@pytest.mark.parametrize(("of_a_data_set", "radius"), [(True, 0.15), (False, 8 / 255)])
def test_defend_takes_the_radius_of_the_examples(
    monkeypatch: pytest.MonkeyPatch, digits: Any, of_a_data_set: bool, radius: float
) -> None:
    """From Python as from the command line. Arrays have no usual radius, so the fallback is used."""
    used: list[Defense] = []
    monkeypatch.setattr(PGDAT, "fit", lambda self, *_: used.append(self))
    examples = load_dataset("digits").split("train") if of_a_data_set else digits[0]
    defend(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), PGDAT(), examples, epochs=1)
    (defense,) = used
    assert defense.model_dump()["eps"] == radius
