from __future__ import annotations

from typing import ClassVar

import pytest

from robustbench_cli.defenses.base.training.named_recipe import Applied, NamedRecipe

FIELDS = {"eps", "steps", "step_size", "beta", "attack_mode"}


class Published(NamedRecipe):
    """A recipe."""

    paper: ClassVar[str] = "none"
    defenses: ClassVar = ("trades",)
    datasets: ClassVar = ("cifar10", "mnist")
    values: ClassVar = {
        "model": ("wrn-34-10", "code"),
        "train.epochs": (76, "code"),
        "defense.beta": (6.0, "code"),
        "defense.eps": (0.031, "code"),
        "defense.steps": (10, "code"),
    }
    for_dataset: ClassVar = {
        "mnist": {"model": (None, ""), "defense.beta": (1.0, "code"), "defense.eps": (0.3, "code")}
    }


def applied(
    dataset: str = "cifar10", *, defenses: tuple[str, ...] = ("trades",), size: int = 32, eps: float = 8 / 255
) -> Applied:
    return Published.apply(
        "published", dict.fromkeys(defenses, FIELDS), dataset=dataset, shape=(3, size, size), radius=eps
    )  # type: ignore[arg-type]


def test_all_values_for_its_own_data_and_defense() -> None:
    """Also in a chain with other defenses, which get none; and for other data that look the same."""
    for dataset, defenses in (("cifar10", ("trades",)), ("npz", ("trades",)), ("cifar10", ("jpeg", "trades"))):
        values = applied(dataset, defenses=defenses)
        assert values.misfits == ()
        assert values.training == {"epochs": 76}
        assert values.defenses == {"trades": {"beta": 6.0, "eps": 0.031, "steps": 10}}
        assert values.model == "wrn-34-10"


def test_values_of_one_data_set() -> None:
    """They replace those of the others; a value of None is left to the defaults."""
    values = applied("mnist", size=28, eps=0.3)
    assert (values.model, values.misfits) == (None, ())
    assert values.defenses == {"trades": {"beta": 1.0, "eps": 0.3, "steps": 10}}


@pytest.mark.parametrize(("size", "eps"), [(28, 8 / 255), (32, 0.1)])
def test_another_data_set(size: int, eps: float) -> None:
    """What depends on the images is left out, and the message names it."""
    values = applied("digits", size=size, eps=eps)
    assert values.defenses == {"trades": {"beta": 6.0, "steps": 10}}
    assert (values.model, values.training) == (None, {"epochs": 76})
    (misfit,) = values.misfits
    assert (
        misfit
        == "recipe published is for cifar10 and mnist, not digits: its network and eps do not fit and are left out"
    )


def test_another_defense() -> None:
    """It gets what means the same there, and the message names the rest."""
    values = applied(defenses=("mart",))
    assert values.defenses == {"mart": {"eps": 0.031, "steps": 10}}
    (misfit,) = values.misfits
    assert misfit == "recipe published is for trades, not mart: its beta does not fit and is left out"
    none = applied(defenses=())
    assert none.defenses == {}
    assert none.misfits[0].startswith("recipe published is for trades, not none: its beta, eps and steps do not fit")
