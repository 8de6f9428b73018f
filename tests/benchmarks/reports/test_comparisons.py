from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scipy import stats

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.reports.comparisons import comparisons_table, parse_comparison, readable_comparisons
from robustbench_cli.benchmarks.reports.rows import rows
from robustbench_cli.benchmarks.reports.scored_rows import ScoredRow, scored_rows
from robustbench_cli.core.errors import UserError

from ..conftest import MakeCell, MakeOutcomes, MakeResult

HRS = MethodSpec(name="hrs", parameters={"channels": [5, 5]}, changed=("channels",))
JPEG = MethodSpec(name="jpeg", parameters={})
PGD = MethodSpec(name="pgd", parameters={"steps": 40})
FGSM = MethodSpec(name="fgsm", parameters={})

Add = Callable[..., None]


class Stored:
    """Rows of which a test says on how many of 100 images they are right, from the first on or from the last."""

    def __init__(self, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> None:
        self._made = make_cell, make_outcomes, make_result
        self._stored: list[Any] = []

    def add(self, right: int, *, last: bool = False, draws: int = 1, result: Any = None, **cell: Any) -> None:
        make_cell, make_outcomes, make_result = self._made
        robust = [draws] * right + [0] * (100 - right)
        cell = {"n": 100, "repeats": draws, "checkpoint": repr(cell.get("defenses", ())), "attack": PGD} | cell
        outcomes = make_outcomes(clean=[draws] * 100, robust=robust[::-1] if last else robust, draws=draws)
        self._stored.append((make_result(make_cell(**cell), outcomes, **result or {})[0], outcomes))

    def rows(self) -> list[ScoredRow]:
        outcomes = {result.cell.id: outcomes for result, outcomes in self._stored}

        def read(group: Any) -> Any:
            return group, Outcomes.stacked([outcomes[result.cell.id] for result in group])

        results = [result for result, _ in self._stored]
        return scored_rows(rows(results, read), results, read)

    def compare(self, *texts: str) -> list[dict[str, Any]]:
        table = comparisons_table(parse_comparison(*texts), self.rows())
        return [{str(key): value for key, value in row.items()} for row in table.to_dict(orient="records")]

    def refused(self, *texts: str) -> str:
        with pytest.raises(UserError) as error:
            self.compare(*texts)
        return str(error.value)


@pytest.fixture
def stored(make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> Stored:
    """The same attack on three defenses."""
    made = Stored(make_cell, make_outcomes, make_result)
    made.add(30)
    made.add(50, defenses=(JPEG,))
    made.add(55, last=True, defenses=(HRS,))
    return made


def test_all_pairs_of_a_column(stored: Stored) -> None:
    """Each pair once, with scipy's test of its images and Holm's correction over the three."""
    found = stored.compare("defense")
    assert [(row["a"], row["b"]) for row in found] == [
        ("none", "jpeg"),
        ("none", "hrs(channels=[5,5])"),
        ("jpeg", "hrs(channels=[5,5])"),
    ]
    # Right from the first on, and from the last on: the overlap of 55 and 50 of 100 images is 5.
    discordant = [(0, 20), (30, 55), (45, 50)]
    assert [(row["a_only"], row["b_only"]) for row in found] == discordant
    p_values = [stats.binomtest(wins, wins + losses).pvalue for wins, losses in discordant]
    assert [row["p_value"] for row in found] == pytest.approx(p_values)
    assert [row["p_holm"] for row in found] == pytest.approx([3 * p_values[0], 2 * p_values[1], p_values[2]])
    assert [row["differ"] for row in found] == [True, True, False]
    assert [row["difference"] for row in found] == pytest.approx([-0.2, -0.25, -0.05])


def test_two_rows(stored: Stored) -> None:
    """By conditions in the order of the user, by a label with commas, and by cells."""
    (forward,) = stored.compare("defense=none", "defense=hrs")
    (backward,) = stored.compare("defense=hrs(channels=[5,5]),attack=pgd", "defense=none,attack=pgd")
    assert forward["difference"] == pytest.approx(-0.25) == pytest.approx(-backward["difference"])
    assert (forward["difference_low"], forward["difference_high"]) == pytest.approx(
        (-backward["difference_high"], -backward["difference_low"])
    )
    (by_cell,) = stored.compare(forward["a_cell"][:6], f"cell={forward['b_cell']}")
    assert {**by_cell, "a": 0, "b": 0} == {**forward, "a": 0, "b": 0}


def test_pairs_agree_in_all_else(stored: Stored) -> None:
    """Of two attacks and two radii, each row has its partner; the worst cases too."""
    for defenses, right in (((), 40), ((JPEG,), 60)):
        stored.add(right, attack=FGSM, defenses=defenses)
        stored.add(right, attack=FGSM, eps=0.1, defenses=defenses)
    found = stored.compare("defense=none", "defense=jpeg")
    assert [(row["attack"], row["eps"]) for row in found] == [
        ("pgd", "0.0313725"),
        ("fgsm", "0.0313725"),
        ("worst-case", "0.0313725"),
        ("fgsm", "0.1"),
    ]
    assert found[2]["a_attacks"] == "pgd;fgsm"


def test_pairs_of_the_same_names_are_told_apart(stored: Stored) -> None:
    """By the draws of the attacks, and by the cells."""
    stored.add(45, last=True, defenses=(HRS,), eot=10)
    found = stored.compare("defense=none", "defense=hrs")
    assert [(row["a"], row["b"]) for row in found] == [
        ("none eot 1", "hrs(channels=[5,5]) eot 1"),
        ("none eot 1", "hrs(channels=[5,5]) eot 10"),
    ]
    (row,) = stored.compare("eot")
    assert (row["a"], row["b"], row["attack"]) == ("1", "10", "pgd")


def test_attacks_on_one_model(stored: Stored) -> None:
    """They may be compared, and two models under different attacks may not."""
    stored.add(20, attack=FGSM)
    (row,) = stored.compare("attack=pgd,defense=none", "attack=fgsm,defense=none")
    assert (row["a"], row["b"], row["defense"], row["attack"]) == ("pgd", "fgsm", "none", None)
    assert "two models under different attacks, fgsm and pgd" in stored.refused(
        "attack=fgsm,defense=none", "defense=jpeg,attack=pgd"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": "e" * 64}, "the images differ"),
        ({"eps": 0.1}, "eps is 0.0313725 and 0.1"),
        ({"norm": "l2"}, "norm is linf and l2"),
        ({"targeted": "next"}, "targeted is no and next"),
        ({"accounting": "single-draw"}, "accounting is expected and single-draw"),
        ({"seed": 1}, "seed is 0 and 1"),
    ],
)
def test_other_images_radii_and_protocols_are_refused(stored: Stored, changes: dict[str, Any], reason: str) -> None:
    stored.add(50, defenses=(MethodSpec(name="sap", parameters={}),), **changes)
    assert stored.refused("defense=none", "defense=sap") == (
        f"--compare defense=none --with defense=sap: no two rows can be compared: {reason}"
    )


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (("defens",), "--compare 'defens': did you mean 'defense'?"),
        (("defense=none",), "--compare defense=none: give the other row too, as in --with defense=hrs; or a column"),
        (("defense=none", "defense=rse"), "--compare 'defense=rse' fits no row: there is"),
        (("defense=none", "defens=rse"), "--compare 'defens=rse': unknown column 'defens': did you mean 'defense'"),
        (("defense=none", "defense=none"), "no two rows can be compared: both select the same row"),
        (("seed",), "--compare seed: all rows have the seed '0': there is no pair to compare"),
    ],
)
def test_what_fits_no_pair_is_named(stored: Stored, texts: tuple[str, ...], reason: str) -> None:
    assert reason in stored.refused(*texts)


def test_the_table_for_people(stored: Stored) -> None:
    """Points with intervals, the tests by name, and what speaks against a row."""
    stored.add(60, draws=5, defenses=(MethodSpec(name="rse", parameters={}),), result={"flags": ("no-eot",)})
    shown = readable_comparisons(comparisons_table(parse_comparison("defense"), stored.rows()))
    assert shown.title == "dataset digits, model small-cnn, attack pgd, threat linf 0.0313725, seed 0, n 100"
    assert shown.headers == ["a", "b", "robust a", "robust b", "a - b", "only a", "only b", "p", "p (Holm)", ""]
    assert shown.lines[0][:7] == ["none", "jpeg", "30.0", "50.0", "-20.0 [-27.5,-12.0]", "0", "20"]
    assert shown.lines[0][-1] == "differ"
    assert shown.caption[0].startswith("p of deterministic models: exact McNemar")
    assert shown.caption[1].startswith("p of randomized models: exact sign-flip")
    legend = " ".join(shown.caption[2:6])
    assert all(f"{name}:" in legend.replace(",", ":") for name in ("robust a", "a - b", "only a", "p", "p (Holm)"))
    assert "corrected for all 6 pairs" in legend
    assert shown.caption[6].startswith("flagged rows are among them (no-eot)")
