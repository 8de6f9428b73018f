from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from robustbench_cli import attacks, defenses
from robustbench_cli.benchmarks.evaluation import cost
from robustbench_cli.benchmarks.reprogramming.program import Reprogramming
from robustbench_cli.cli.catalog import KINDS, names
from robustbench_cli.defenses.base.training.recipe import Recipe


@pytest.fixture
def counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the passes of each attack once, which takes up to seconds, and not for each format."""
    monkeypatch.setattr(cost, "passes", functools.lru_cache(cost.passes))


@pytest.mark.usefixtures("counted_once")
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in names(kind)])
def test_everything_that_is_registered_can_be_shown(advdef: Callable[..., Any], kind: str, name: str) -> None:
    """Each card has the source paper, all parameters with description and default, and of a defense what attacks follow."""
    ended = advdef("show", kind, name, "--format", "json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    assert told["summary"]
    page = advdef("show", kind, name)
    assert (page.code, page.err) == (0, "")
    assert told["summary"] in page.out
    if kind in {"attack", "defense"}:
        assert told["paper"]
        if name.endswith(":"):
            assert ", ".join(told["members"]) in page.out
            return
        registry = attacks.registry if kind == "attack" else defenses.registry
        fields = (Reprogramming if name == "reprogramming" else registry.load(name)).model_fields
        assert [each["name"] for each in told["parameters"]] == [*fields]
        for each in told["parameters"]:
            assert each["description"]
            assert each["name"] in page.out
    if kind == "attack" and name != "reprogramming":
        assert told["norms"]
    if kind == "defense":
        assert f"attacked by  {told['attacked_by']}" in page.out


OWN = """
    from typing import Annotated, ClassVar, Literal
    from annotated_types import Ge
    from pydantic import Field
    from robustbench_cli.attacks.base.attack import FixedRadiusAttack

    class Mine(FixedRadiusAttack):
        '''Moves ``pixels``, as :class:`~a.b.Other` does.

        More on it.

        Attributes:
            paper: Not for the page.
        '''

        paper: ClassVar[str] = "A. Author: Title. Place"
        norms: ClassVar[tuple[str, ...]] = ("linf",)

        must: int = Field(description="needed")
        rate: float | None = Field(None, gt=0, lt=0.5, description="a rate")
        counts: tuple[Annotated[int, Ge(1)], ...] = Field((5, 5), min_length=1, description="some counts")
        order: Literal["up", "down"] = Field("up", description="which way")
        flag: bool = Field(default=True, description="whether")

        def run(self, source, images, labels, threat, random):
            return images
"""


def test_a_users_own_attack_is_shown_as_ours(advdef: Callable[..., Any], tmp_path: Path) -> None:
    """Types, limits and defaults come from the fields; marks meant for a documentation page are left out."""
    file = tmp_path / "own.py"
    file.write_text(dedent(OWN))
    ended = advdef("show", "attack", f"{file}:Mine", "--format", "json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    parameters = told.pop("parameters")
    assert told == {
        "kind": "attack",
        "name": f"{file}:Mine",
        "summary": "Moves pixels, as a.b.Other does.",
        "description": "More on it.",
        "paper": "A. Author: Title. Place",
        "norms": ["linf"],
        "access": "gradients",
        "minimal_norm": False,
        "type": "fixed-radius",
    }
    optional = {"required": False, "constraints": []}
    assert parameters == [
        {"name": "must", "type": "int", "required": True, "constraints": [], "description": "needed"},
        optional
        | {"name": "rate", "type": "float | null", "default": None, "description": "a rate"}
        | {"constraints": ["> 0", "< 0.5"]},
        optional
        | {"name": "counts", "type": "tuple[int >= 1, ...]", "default": [5, 5], "description": "some counts"}
        | {"constraints": ["length >= 1"]},
        optional | {"name": "order", "type": "up | down", "default": "up", "description": "which way"},
        optional | {"name": "flag", "type": "bool", "default": True, "description": "whether"},
    ]
    rows = [line.split() for line in advdef("show", "attack", f"{file}:Mine").out.splitlines()]
    assert ["must", "int", "(required)", "needed"] in rows
    assert ["counts", "tuple[int", ">=", "1,", "...]", "[5,", "5]", "length", ">=", "1", "some", "counts"] in rows
    assert ["flag", "bool", "true", "whether"] in rows


def test_the_condition_of_an_attack_is_told(advdef: Callable[..., Any]) -> None:
    """In words beside the attacks of a suite that has one, and as data."""
    page = advdef("show", "suite", "standard").out
    assert "hopskipjump(only_if=blinded)" in page
    assert "only_if=blinded  runs only if an attack before it was blinded" in page
    told = json.loads(advdef("show", "suite", "standard", "--format", "json").out)
    assert told["attacks"][-1] == {"name": "hopskipjump", "only_if": "blinded"}
    assert "only_if" not in advdef("show", "suite", "quick").out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["attack", "pgdd"], "unknown attack 'pgdd': did you mean 'pgd'?"),
        (["defense", "hsr"], "unknown defense 'hsr': did you mean 'hrs'?"),
        (
            ["paper", "quick"],
            "advdef show: unknown kind 'paper' (choose from attack, defense, dataset, model, corruption, augmentation, recipe, suite, check, training)",
        ),
        (["training", "rice-2021"], "unknown recipe 'rice-2021': did you mean 'rice-2020'?"),
        (["check"], "advdef show check: give NAME, a name of 'advdef list checks'"),
    ],
)
def test_names_that_are_unknown(advdef: Callable[..., Any], words: list[str], line: str) -> None:
    """An unknown kind or name gets one line with the nearest known one."""
    ended = advdef("show", *words)
    assert (ended.code, ended.out, ended.err) == (2, "", f"advdef: error: {line}\n")


def test_an_attack_shows_its_type_access_and_cost(advdef: Callable[..., Any]) -> None:
    """In the literature's words: PGD-40 takes 40 gradients and one more pass to score its last iterate."""
    lines = advdef("show", "attack", "pgd").out.splitlines()
    assert "type    fixed-radius" in lines
    assert "access  gradients" in lines
    assert (
        "cost    up to 41 forward / 40 backward passes per unbroken image of ten classes, times K with --eot K" in lines
    )
    # Ten gradients rank nine classes; the first restart takes 20 for each, the second 10 for five; the polish takes 45.
    (cost,) = [line for line in advdef("show", "attack", "fmn").out.splitlines() if line.startswith("cost")]
    assert "101 forward / 100 backward" in cost
    assert f"/ {100 + 10 + 20 * 9 + 10 * 5 + 45} with targeted_restarts=2" in cost
    lines = advdef("show", "attack", "hopskipjump").out.splitlines()
    assert "type    minimal-norm" in lines
    assert "access  decisions" in lines


def test_a_name_without_its_kind_gets_the_command(advdef: Callable[..., Any]) -> None:
    for name, kind in (("hrs", "defense"), ("small-cnn", "model"), ("my.py:Mine", "defense")):
        ended = advdef("show", name)
        assert ended.code == 2
        assert ended.err.endswith(f": give it first, as in 'advdef show {kind} {name}'\n")


def test_the_training_is_shown_without_a_name(advdef: Callable[..., Any]) -> None:
    """Every parameter of the recipe with its default and meaning, and how to set it."""
    entry = json.loads(advdef("show", "training", "--format", "json").out)
    assert [parameter["name"] for parameter in entry["parameters"]] == [*Recipe.model_fields]
    assert {parameter["name"]: parameter["default"] for parameter in entry["parameters"]}["lr"] == 0.004
    page = advdef("show", "training")
    assert (page.code, page.err) == (0, "")
    assert "written  --set train.KEY=VALUE" in page.out
    assert page == advdef("show", "training", "train")


def test_a_recipe_is_shown_with_the_source_of_each_value(advdef: Callable[..., Any]) -> None:
    """As ``training NAME`` and as ``recipe NAME``; milestones are in epochs, radii in levels of 255."""
    page = advdef("show", "training", "pang-2021")
    assert (page.code, page.err) == (0, "")
    assert page == advdef("show", "recipe", "pang-2021")
    lines = {line.split()[0]: line for line in page.out.splitlines() if line}
    assert "after epochs 100, 105 of 110" in lines["train.milestones"]
    assert "README.md, baseline setting: decay at epochs 100 and 105" in lines["train.milestones"]
    assert " 8/255 " in lines["pgd-at.eps"]
    assert "--recipe pang-2021" in lines["written"]
    entry = json.loads(advdef("show", "training", "pang-2021", "--format", "json").out)
    assert {
        "name": "train.epochs",
        "dataset": "",
        "value": 110,
        "source": "README.md, baseline setting: total epoch",
    } in (entry["values"])
    mnist = [line for line in advdef("show", "training", "trades-2019").out.splitlines() if " mnist " in line]
    assert any(line.split()[:3] == ["trades.beta", "mnist", "1.0"] for line in mnist)
    default = json.loads(advdef("show", "training", "default", "--format", "json").out)
    assert [parameter["name"] for parameter in default["parameters"]] == [*Recipe.model_fields]
