from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.store.worst_case_flags import blinded, is_quick_look, worst_case_flags

from ..conftest import MakeCell, MakeOutcomes, MakeResult

IMAGES = 100
CLEAN = 86
"""As many images are classified right; an attack leaves the first ones of them."""


class Run(NamedTuple):
    """What an attack did."""

    result: Result
    outcomes: Outcomes

    @property
    def cell(self) -> Cell:
        """Its cell."""
        return self.result.cell


MakeRun = Callable[..., Run]


@pytest.fixture
def attack(make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> MakeRun:
    """What an attack did, of which a test says how many images it leaves and which flags it has."""

    def one(left: int | Sequence[int], *flags: str, name: str = "pgd", gradients: bool = True, **words: Any) -> Run:
        draws, distance = words.pop("repeats", 1), words.pop("distance", 0.05)
        spec = MethodSpec(name=name, parameters=words.pop("parameters", {}))
        cell = make_cell(n=IMAGES, repeats=draws, attack=spec, **words)
        standing = range(left) if isinstance(left, int) else left
        clean = [draws * (image < CLEAN) for image in range(IMAGES)]
        outcomes = make_outcomes(
            clean=clean,
            robust=[draws * (image in standing) for image in range(IMAGES)],
            draws=draws,
            distance=distance,
        )
        result, _ = make_result(cell, outcomes, flags=flags, backwards=50 if gradients else 0)
        return Run(result, outcomes)

    return one


@pytest.fixture
def square(attack: MakeRun) -> MakeRun:
    """The same of an attack without gradients."""
    return lambda left, *flags, **words: attack(left, *flags, name="square", gradients=False, **words)


def flags(*runs: Run) -> list[str]:
    """The flags of the headline; the same in any order of the attacks."""
    results, attacks = [run.result for run in runs], Outcomes.stacked([run.outcomes for run in runs])
    found = worst_case_flags(results, attacks, attacks.worst_attack())
    reverse = Outcomes.stacked([run.outcomes for run in runs[::-1]])
    assert worst_case_flags(results[::-1], reverse, reverse.worst_attack()) == found
    assert blinded(results, attacks, attacks.worst_attack()) == ("zero-gradient" in found or "wrong-gradient" in found)
    return found


@pytest.mark.parametrize("left", [86, 84, 63, 37, 32, 25, 18])
def test_a_search_without_gradients_does_not_vouch_for_what_it_leaves(
    attack: MakeRun, square: MakeRun, left: int
) -> None:
    """What Square leaves of one-hot outputs, JPEG, a detector and thermometers, where an attack made for them leaves 5 to 21."""
    assert flags(attack(86, "zero-gradient", "wrong-gradient"), square(left)) == ["wrong-gradient", "zero-gradient"]


@pytest.mark.parametrize("left", [0, 5, 8])
def test_where_next_to_nothing_is_left_nothing_is_overstated(attack: MakeRun, square: MakeRun, left: int) -> None:
    """A tenth of the clean accuracy at most, whoever broke the rest."""
    assert flags(attack(86, "zero-gradient", "wrong-gradient"), square(left)) == []
    assert flags(attack(86, "zero-gradient", "no-eot"), attack(left, "zero-gradient")) == []
    assert flags(attack(86, "zero-gradient"), square(9)) == ["zero-gradient"]


@pytest.mark.parametrize(("left", "kept"), [(86, True), (80, True), (60, True), (45, False), (30, False)])
def test_an_attack_that_sees_breaks_through(attack: MakeRun, left: int, kept: bool) -> None:
    """One loss saturates and another does not: clearly more than a quarter of what the first left has to fall.

    A quarter of 86 images is 21.5. 26 more that fall are not clearly more than that, by the paired differences' interval
    of about 8 images to each side; 41 are.
    """
    assert flags(attack(86, "zero-gradient"), attack(left, name="cw-pgd")) == ["zero-gradient"] * kept


def test_few_images_are_no_clear_statement(attack: MakeRun) -> None:
    """Of thirty images that a blinded attack left, the fall of eight is more than a quarter, and not clearly so."""
    assert flags(attack(30, "zero-gradient"), attack(22, name="cw-pgd")) == ["zero-gradient"]


def test_who_is_blinded_too_does_not_vouch(attack: MakeRun) -> None:
    """By the same flag or by another; nor does who follows another model."""
    assert flags(attack(86, "zero-gradient"), attack(30, "wrong-gradient")) == ["wrong-gradient", "zero-gradient"]
    for name in ("non-adaptive", "transfer"):
        assert flags(attack(86, "zero-gradient"), attack(30, name=name)) == ["zero-gradient"]


def test_images_are_compared_one_by_one(attack: MakeRun) -> None:
    """Two attacks that leave as many images each leave different ones: neither broke what the other left."""
    assert flags(attack(range(43), "zero-gradient"), attack(range(43, 86))) == []
    blind, seeing = attack(range(43), "zero-gradient"), attack(range(20, 63))
    assert flags(blind, seeing) == ["zero-gradient"]


def test_in_a_cascade_only_later_attacks_break_through(attack: MakeRun) -> None:
    """What leaves its images to one that is blinded has not broken them; what goes on from that one may."""
    first = attack(30)
    blind = attack(30, "zero-gradient", name="apgd-ce", after=first.cell.id, cascade=True)
    assert flags(first, blind) == ["zero-gradient"]
    barely = attack(28, name="apgd-t", after=blind.cell.id, cascade=True)
    assert flags(first, blind, barely) == ["zero-gradient"]
    clearly = attack(12, name="apgd-t", after=blind.cell.id, cascade=True)
    assert flags(first, blind, clearly) == []
    # It broke what the first had left before the last came.
    blind = attack(86, "zero-gradient")
    seeing = attack(30, name="apgd-ce", after=blind.cell.id, cascade=True)
    last = attack(30, "zero-gradient", name="fmn", after=seeing.cell.id, cascade=True)
    assert flags(blind, seeing, last) == []


def test_what_speaks_against_the_model_always_stays(attack: MakeRun, square: MakeRun) -> None:
    """Whichever attack showed it, and however little is left; so does a flag that nobody has told of its kind."""
    for flag in ("unstable", "not-repeatable", "single-draw", "made-up"):
        assert flags(attack(86), square(0, flag)) == [flag]
        assert flags(attack(86, flag), attack(3)) == [flag]


@pytest.mark.parametrize(
    "flag", ["no-eot", "every-draw", "few-classes", "left-the-ball", "cannot-reach", "silent-success"]
)
def test_one_attack_makes_up_for_how_another_was_set_up(attack: MakeRun, square: MakeRun, flag: str) -> None:
    """Where it follows the model's gradients, whatever it finds, and nothing is wrong with its own set-up."""
    assert flags(attack(60, flag, repeats=10), attack(58, eot=10, repeats=10)) == []
    assert flags(attack(60, flag, repeats=10), square(58, repeats=10)) == [flag]
    other = {"no-eot", "every-draw"} - {flag}
    assert flags(attack(60, flag, repeats=10), attack(58, *other, repeats=10)) == sorted({flag, *other})


def test_draws_count_as_parts_of_an_image(
    make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """A blinded attack leaves eight draws in ten; another that leaves six broke a quarter, one that leaves two far more."""

    def run(draws: int, *raised: str) -> Run:
        outcomes = make_outcomes(clean=[10] * 50, robust=[draws] * 50, draws=10)
        result, _ = make_result(make_cell(n=50, repeats=10, eot=10, seed=draws), outcomes, flags=raised)
        return Run(result, outcomes)

    assert flags(run(8, "zero-gradient"), run(6)) == ["zero-gradient"]
    assert flags(run(8, "zero-gradient"), run(2)) == []


def test_at_any_distance_a_way_that_is_clearly_shorter_breaks_through(attack: MakeRun, square: MakeRun) -> None:
    """There every image falls, and what is reported is how far away; so nothing is near zero."""
    words = {"eps": None, "norm": "l2"}
    blind = attack(0, "zero-gradient", distance=1.0, **words)
    assert flags(blind, attack(0, distance=0.9, **words)) == ["zero-gradient"]
    assert flags(blind, attack(0, distance=0.5, **words)) == []
    assert flags(blind, square(0, distance=0.5, **words)) == ["zero-gradient"]
    assert flags(attack(86, "zero-gradient", distance=1.0, **words), attack(0, distance=1.0, **words)) == []


@pytest.mark.parametrize(
    ("gradients", "eps", "robust", "quick"),
    [
        ([True], 0.1, 0.83, True),
        ([True, True], 0.1, 0.12, True),
        ([True, True], 0.1, 0.08, False),
        ([True, False], 0.1, 0.83, False),
        ([True, True], None, 0.3, True),
        ([True, True], None, 0.0, False),
        ([True], 0.0, 0.86, False),
    ],
)
def test_attacks_that_all_follow_gradients_vouch_for_nothing_that_they_leave(
    attack: MakeRun, gradients: list[bool], eps: float | None, robust: float, quick: bool
) -> None:
    """Beside one without gradients they do, and where next to nothing is left, or nothing may be changed."""
    results = [attack(0, gradients=each, eps=eps).result for each in gradients]
    assert is_quick_look(results, clean=0.86, robust=robust) == quick


@pytest.mark.parametrize("library", ["torchattacks", "art"])
@pytest.mark.parametrize(("attack_name", "version", "quick"), [("AutoAttack", "standard", False), ("PGD", "", True)])
def test_an_ensemble_of_another_library_supports_its_figure(
    attack: MakeRun, library: str, attack_name: str, version: str, quick: bool
) -> None:
    """AutoAttack's standard version searches without gradients as well; its version for randomized models does not."""
    name, parameters = f"{library}:{attack_name}", {"version": version} if version else {}
    assert is_quick_look([attack(0, name=name, parameters=parameters).result], clean=0.86, robust=0.5) == quick
    assert is_quick_look([attack(0, name=name, parameters={"version": "rand"}).result], clean=0.86, robust=0.5)
