from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.corruptions import BENCHMARK, SEVERITIES
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.reports.corruption_means import ALEXNET
from robustbench_cli.benchmarks.reports.leaderboard import (
    SUITES,
    RequiredAttack,
    Standing,
    leaderboard_names,
    read_leaderboard,
    readable_standings,
    standings,
    standings_table,
)
from robustbench_cli.benchmarks.reports.rows import Together, rows
from robustbench_cli.benchmarks.store.records import Result
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.core.errors import UserError

from ..conftest import MakeCell, MakeOutcomes, MakeResult

ENTRIES = {name: [entry for entry in read_suite(name).entries if entry.only_if is None] for name in SUITES}
REQUIRED = {
    name: [RequiredAttack(entry.name, entry.parameters, entry.norm) for entry in entries]
    for name, entries in ENTRIES.items()
}


CELLS = [(name, severity) for name in BENCHMARK for severity in SEVERITIES]


class Evaluated:
    """The results of a suite for models of which a test says how many of their images are right under every attack."""

    def __init__(self, make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> None:
        self.make_cell, self.make_outcomes, self.make_result = make_cell, make_outcomes, make_result
        self.stored: list[tuple[Result, Outcomes]] = []

    def add(self, right: int, *, suite: str = "standard", without: Sequence[str] = (), **changes: Any) -> None:
        cell = {"dataset": "cifar10", "n": 1000, "eps": 8 / 255, "norm": "linf", "model": "wrn-28-10"} | changes
        flags = cell.pop("flags", ())
        outcomes = self.make_outcomes(clean=[1] * cell["n"], robust=[1] * right + [0] * (cell["n"] - right))
        for entry in ENTRIES[suite]:
            if cell["norm"] in entry.norms_among(attacks.load(entry.name).norms) and entry.name not in without:
                spec = method_spec(attacks, entry.name, entry.parameters).spec
                result, _ = self.make_result(self.make_cell(**cell, attack=spec, cascade=True), outcomes, flags=flags)
                self.stored.append((result, outcomes))

    def standings(self, board: str = "cifar10-linf") -> tuple[list[Standing], list[str]]:
        outcomes = {result.cell.id: outcomes for result, outcomes in self.stored}

        def read(group: Sequence[Result]) -> Together:
            return group, Outcomes.stacked([outcomes[result.cell.id] for result in group])

        results = [result for result, _ in self.stored]
        return standings(read_leaderboard(board), rows(results, read), results, REQUIRED)


@pytest.fixture
def evaluated(make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> Evaluated:
    return Evaluated(make_cell, make_outcomes, make_result)


def test_the_tables_have_published_figures() -> None:
    """Some figures as the papers and the website give them, with the lower one where AutoAttack's is not the lowest."""
    boards = {name: read_leaderboard(name) for name in leaderboard_names()}
    assert {name: (board.dataset, board.norm, board.eps, board.n) for name, board in boards.items()} == {
        "cifar10-corruptions": ("cifar10-c", None, None, 10000),
        "cifar10-l2": ("cifar10", "l2", "0.5", 10000),
        "cifar10-linf": ("cifar10", "linf", "8/255", 10000),
        "cifar100-corruptions": ("cifar100-c", None, None, 10000),
        "cifar100-linf": ("cifar100", "linf", "8/255", 10000),
        "imagenet-corruptions": ("imagenet-c", None, None, 5000),
        "imagenet-linf": ("imagenet", "linf", "4/255", 5000),
    }
    figures = {entry.model: (entry.clean, entry.robust) for entry in boards["cifar10-linf"].entries}
    assert figures["Carmon2019Unlabeled"] == (89.69, 59.53)
    assert figures["Rice2020Overfitting"] == (85.34, 53.42)
    assert figures["Standard"] == (94.78, 0.0)
    # AutoAttack leaves 66.58 %, and the original evaluation 66.56 %.
    assert figures["Rebuffi2021Fixing_70_16_cutmix_extra"] == (92.23, 66.56)
    # The paper's own errors, on all 50,000 images.
    (alexnet,) = [entry.robust for entry in boards["imagenet-corruptions"].entries if entry.model == "AlexNet"]
    assert alexnet == pytest.approx(100 - 100 * sum(ALEXNET.values()) / 15, abs=0.1)
    for board in boards.values():
        robust = [entry.robust for entry in board.entries]
        assert robust == sorted(robust, reverse=True)
        assert len({entry.model for entry in board.entries}) == len(robust)
        assert all(entry.link.startswith("https://") and entry.paper and entry.venue for entry in board.entries)


def test_a_rank_counts_the_models_that_are_more_robust() -> None:
    """The accuracy of an entry gives its position, and a hundredth of a point more passes those that are equal."""
    board = read_leaderboard("cifar10-linf")
    robust = [entry.robust for entry in board.entries]
    for value in robust:
        assert board.rank(value / 100) == robust.index(value) + 1
        assert board.rank((value + 0.01) / 100) == sum(other > value + 0.015 for other in robust) + 1
    assert (board.rank(1), board.rank(0)) == (1, robust.index(0.0) + 1)


@pytest.mark.parametrize("suite", SUITES)
def test_a_model_gets_a_rank_with_its_interval(evaluated: Evaluated, suite: str) -> None:
    """The ranks are those of the robust accuracy and of the ends of its interval, and a smaller n is said."""
    evaluated.add(600, suite=suite)
    (standing,), refused = evaluated.standings()
    robust = [entry.robust for entry in read_leaderboard("cifar10-linf").entries]
    row = standing.row
    assert row["attack"] == "worst-case"
    assert refused == []
    assert standing.rank == 1 + sum(value > 60 for value in robust)
    assert standing.rank_low == 1 + sum(value > 100 * row["robust_accuracy_high"] for value in robust)
    assert standing.rank_high == 1 + sum(value > 100 * row["robust_accuracy_low"] for value in robust)
    assert standing.rank_low < standing.rank < standing.rank_high
    ends = f"{standing.rank_low} to {standing.rank_high}"
    assert standing.notes == [
        f"1000 images, and 10000 on the leaderboard: compare only the interval of the rank, {ends}"
    ]


def test_the_neighbors_are_shown(evaluated: Evaluated) -> None:
    """Three models above and three below, with the model itself between them, in the order of robust accuracy."""
    evaluated.add(600)
    found, _ = evaluated.standings()
    board = read_leaderboard("cifar10-linf")
    table = standings_table(board, found)
    assert list(table["place"]) == ["above"] * 3 + ["here"] + ["below"] * 3
    assert list(table["robust_accuracy"]) == sorted(table["robust_accuracy"], reverse=True)
    models = [entry.model for entry in board.entries]
    above = found[0].rank - 1
    assert list(table["model"]) == [*models[above - 3 : above], "wrn-28-10", *models[above : above + 3]]
    assert table["cell"].nunique() == 1
    assert pd.isna(table["rank_low"][0])
    shown = readable_standings(board, found, table)
    assert shown.headers[:4] == ["rank", "model", "clean", "robust"]
    assert shown.lines[3][0] == f"{found[0].rank} [{found[0].rank_low},{found[0].rank_high}]"
    assert shown.lines[3][1] == "> wrn-28-10"


def test_the_best_and_the_worst_have_neighbors_on_one_side(evaluated: Evaluated) -> None:
    """A model above all others has none above."""
    evaluated.add(1000)
    evaluated.add(0, checkpoint="e" * 64)
    found, _ = evaluated.standings()
    board = read_leaderboard("cifar10-linf")
    assert [standing.rank for standing in found] == [1, board.rank(0)]
    table = standings_table(board, found)
    assert list(table["place"][:4]) == ["here", "below", "below", "below"]
    assert "above" not in set(table["place"][:4])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": "svhn"}, "the data set is svhn, not cifar10"),
        ({"norm": "l2"}, "the norm is l2, not linf"),
        ({"eps": 4 / 255}, "eps is 0.0156863, not 8/255"),
        ({"targeted": "next"}, "the attacks are targeted"),
        ({"n": 10001}, "n is 10001, and the leaderboard has 10000 images"),
        ({"without": ["square"]}, "square of the suite standard did not run: use --suite standard"),
    ],
)
def test_another_protocol_is_refused(evaluated: Evaluated, changes: dict[str, Any], reason: str) -> None:
    """The line says in what the evaluation differs; beside a model with a rank, it is a warning."""
    evaluated.add(500, **changes)
    with pytest.raises(UserError) as refusal:
        evaluated.standings()
    assert str(refusal.value).startswith(
        "--leaderboard cifar10-linf: no row follows its protocol (cifar10, linf 8/255, suite standard or autoattack-compat): "
    )
    assert reason in str(refusal.value)
    evaluated.add(600, checkpoint="e" * 64)
    found, refused = evaluated.standings()
    assert len(found) == 1
    assert len(refused) == 1
    assert reason in refused[0]


def test_imagenet_is_in_any_folder_and_of_the_size_of_the_model(evaluated: Evaluated) -> None:
    """Other classes, and images that are not ImageNet's, are another data set."""
    threat: dict[str, Any] = {"eps": 4 / 255, "n": 500}
    evaluated.add(300, dataset="imagenet:some/where?image_size=224&interpolation=bicubic&resize=256", **threat)
    for number, name in enumerate(("imagenet:x?class_list=100.txt", "imagefolder:x", "imagenet-c:x")):
        evaluated.add(300, dataset=name, checkpoint=str(number) * 64, **threat)
    (standing,), refused = evaluated.standings("imagenet-linf")
    assert standing.rank == read_leaderboard("imagenet-linf").rank(0.6)
    assert [line.partition(": ")[2].partition(": ")[2] for line in refused] == [
        "the data set is imagenet:x?class_list=100.txt, and the leaderboard allows no class_list",
        "the data set is imagefolder:x, not imagenet",
        "the data set is imagenet-c:x, not imagenet",
    ]


def test_weaker_parameters_are_another_suite(evaluated: Evaluated, make_cell: MakeCell) -> None:
    """An attack with fewer steps is not that of the suite."""
    evaluated.add(600)
    weaker = method_spec(attacks, "fmn", {"steps": 2}).spec
    for index, (result, outcomes) in enumerate(evaluated.stored):
        if result.cell.attack.name == "fmn":
            cell = result.cell.model_copy(update={"attack": weaker})
            evaluated.stored[index] = result.model_copy(update={"cell": make_cell(**dict(cell))}), outcomes
    with pytest.raises(UserError, match="fmn of the suite standard did not run"):
        evaluated.standings()


def test_gradients_in_bf16_are_no_suite(evaluated: Evaluated, make_cell: MakeCell) -> None:
    """They may be too rough to find a perturbation; the line says that they are the cause."""
    evaluated.add(600)
    for index, (result, outcomes) in enumerate(evaluated.stored):
        if result.cell.attack.name == "apgd-ce":
            cell = make_cell(**dict(result.cell) | {"precision": "bf16"})
            evaluated.stored[index] = result.model_copy(update={"cell": cell}), outcomes
    with pytest.raises(
        UserError, match="apgd-ce of the suite standard did not run other than with gradients in bf16: use --suite"
    ):
        evaluated.standings()


class Corrupted(Evaluated):
    """The results of the suite ``corruptions`` with as many right images under each."""

    def corrupt(self, right: int, *, cells: Sequence[tuple[str, int]] = CELLS, **changes: Any) -> None:
        cell = {"dataset": "cifar10-c:x", "n": 1000, "eps": 0.0, "model": "wrn-28-10"} | changes
        outcomes = self.make_outcomes(
            clean=[1] * right + [0] * (cell["n"] - right), robust=[1] * right + [0] * (cell["n"] - right)
        )
        for name, severity in cells:
            corruption = MethodSpec(name=name, parameters={"severity": severity}, changed=("severity",))
            attack = MethodSpec(name="none")
            result, _ = self.make_result(self.make_cell(**{"attack": attack} | cell, corruption=corruption), outcomes)
            self.stored.append((result, outcomes))


@pytest.fixture
def corrupted(make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> Corrupted:
    return Corrupted(make_cell, make_outcomes, make_result)


def test_a_mean_over_corruptions_has_a_rank(corrupted: Corrupted) -> None:
    """By its accuracy; the published images have no clean ones among them; rows of other suites are no matter."""
    corrupted.corrupt(886)
    corrupted.add(500)
    (standing,), refused = corrupted.standings("cifar10-corruptions")
    robust = [entry.robust for entry in read_leaderboard("cifar10-corruptions").entries]
    assert (standing.rank, refused) == (1 + sum(value > 88.6 for value in robust), [])
    assert standing.rank_low < standing.rank < standing.rank_high
    board = read_leaderboard("cifar10-corruptions")
    shown = readable_standings(board, [standing], standings_table(board, [standing]))
    (line,) = [line for line in shown.lines if line[1] == "> wrn-28-10"]
    assert line[2:4] == ["-", f"88.60 [{line[3].partition('[')[2]}"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": "cifar10"}, "cifar10, not cifar10-c: its corruptions are computed, give cifar10-c:PATH for the"),
        ({"dataset": "cifar100-c:x"}, "the data set is cifar100-c:x, not cifar10-c"),
        ({"dataset": "cifar10-c:x?channels=1"}, "the leaderboard allows no channels"),
        ({"n": 10001}, "n is 10001, and the leaderboard has 10000 images"),
        ({"repeats": 10}, "the model is randomized"),
        ({"cells": CELLS[1:]}, r"it is the mean\(74 of 75\): use --suite corruptions at every severity"),
        ({"cells": CELLS[:1]}, "there is no row: use --suite corruptions"),
        ({"attack": MethodSpec(name="pgd"), "eps": 0.1}, "there is no row: use --suite corruptions"),
    ],
)
def test_other_means_over_corruptions_are_refused(corrupted: Corrupted, changes: dict[str, Any], reason: str) -> None:
    """One line, and the protocol."""
    corrupted.corrupt(886, **changes)
    protocol = r"cifar10-c, 15 corruptions at 5 severities, suite corruptions"
    with pytest.raises(UserError, match=rf"no row follows its protocol \({protocol}\): .*{reason}"):
        corrupted.standings("cifar10-corruptions")


def test_corrupted_images_are_one_line_elsewhere(corrupted: Corrupted) -> None:
    """75 rows of a model differ from the protocol of an attack in the same way."""
    corrupted.corrupt(886, dataset="cifar10")
    corrupted.add(600)
    (_,), refused = corrupted.standings()
    assert len(refused) == 1 and "the images are corrupted" in refused[0]


def test_flags_are_repeated(evaluated: Evaluated) -> None:
    """A masked gradient makes a rank that is too good."""
    evaluated.add(600, flags=("unstable",))
    (standing,), _ = evaluated.standings()
    assert standing.notes[-1] == "flagged unstable: the robust accuracy may be overstated, and with it the rank"


def test_an_unknown_leaderboard_is_named() -> None:
    """With a suggestion."""
    with pytest.raises(UserError, match="unknown leaderboard 'cifar-linf': did you mean 'cifar10-linf'"):
        read_leaderboard("cifar-linf")
