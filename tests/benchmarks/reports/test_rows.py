from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.checkpoints.size import ModelSize
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.reports.columns import column_names
from robustbench_cli.benchmarks.reports.gates import select
from robustbench_cli.benchmarks.reports.rows import Together, failed_rows
from robustbench_cli.benchmarks.reports.rows import rows as table_of
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.benchmarks.store.records import Failure, Origin, Result

from ..conftest import MakeCell, MakeOutcomes, MakeResult

CONTRACT = (
    "dataset, model, checkpoint, defense, attack, norm, eps, targeted, eot, n, repeats, seed, "
    "clean_accuracy, clean_accuracy_low, clean_accuracy_high, robust_accuracy, robust_accuracy_low, robust_accuracy_high, "
    "robust_accuracy_vote, robust_accuracy_every_draw, attack_success_rate, mean_l2, mean_linf, des, flags, "
    "forwards, backwards, seconds, device, cell"
)

HRS = MethodSpec(name="hrs", parameters={"channels": [5, 5]})
CW_PGD = MethodSpec(name="cw-pgd", parameters={"steps": 40})
FGSM = MethodSpec(name="fgsm")
Stored = tuple[Result, Callable[[], Outcomes]]
Add = Callable[..., Stored]


@pytest.fixture
def add(make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult) -> Add:
    """A stored result, of which a test says how often its four images are right in ten draws."""

    def one(
        robust: list[int], clean: list[int] | None = None, result: dict[str, Any] | None = None, **cell: Any
    ) -> Stored:
        draws = cell.setdefault("repeats", 10)
        outcomes = make_outcomes(clean=clean or [draws] * 4, robust=robust, draws=draws)
        stored, _ = make_result(make_cell(**cell), outcomes, **result or {})
        return stored, lambda: outcomes

    return one


def rows(stored: Iterable[Stored]) -> pd.DataFrame:
    """The table of stored results."""
    pairs = list(stored)
    outcomes = {id(result): read for result, read in pairs}

    def read(results: Sequence[Result]) -> Together:
        return results, Outcomes.stacked([outcomes[id(result)]() for result in results])

    return table_of([result for result, _ in pairs], read)


def attacks(table: pd.DataFrame) -> list[str]:
    """The attacks' names, in the order of the rows."""
    return list(table["attack"])


def test_the_columns_are_those_of_the_contract(add: Add) -> None:
    """In its order, and what more there is follows."""
    table = rows([add([0] * 4)])
    assert ", ".join(table.columns).startswith(f"{CONTRACT}, ")
    assert list(table.columns) == column_names()
    assert list(rows([]).columns) == column_names()


def test_a_row_says_what_was_run_and_found(add: Add) -> None:
    """The cell's words, the stored figures and the costs, as they are."""
    result, outcomes = add([10, 0, 5, 0], result={"flags": ("no-eot", "zero-gradient"), "eps": "8/255"}, eot="exact")
    row = rows([(result, outcomes)]).iloc[0]
    told = row[["dataset", "model", "checkpoint", "defense", "attack", "norm", "eps", "targeted", "eot"]].tolist()
    assert told == ["digits", "small-cnn", "model.safetensors", "none", "pgd", "linf", "8/255", "no", "exact"]
    assert row[["n", "repeats", "seed", "forwards", "backwards", "seconds"]].tolist() == [4, 10, 0, 100, 50, 1.5]
    assert row["robust_accuracy"] == pytest.approx(15 / 40)
    assert row["flags"] == "no-eot;zero-gradient"
    assert row["cell"] == result.cell.id
    assert pd.isna(row["des"])


def test_a_row_has_the_size_of_the_model(add: Add) -> None:
    """Results of earlier versions have none, and operations that cannot be counted are missing."""
    size = ModelSize(parameters=100, nonzero=10, macs=1000)
    uncounted = add([0] * 4, checkpoint="u" * 64, result={"size": size.model_copy(update={"macs": None})})
    table = rows([add([0] * 4, result={"size": size}), add([0] * 4, checkpoint="h" * 64), uncounted])
    found = table[["parameters", "nonzero", "macs"]]
    assert found.iloc[0].tolist() == [100, 10, 1000]
    assert found.iloc[1].isna().all()
    assert found.iloc[2].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("origin", "named"),
    [
        (Origin(), "cache/digits-small-cnn-hrs-b09521e776b5.safetensors"),
        (Origin(base="net.pt"), "net.pt"),
        (Origin(base="net.pt", recipe={"seed": 0}), "cache/digits-small-cnn-hrs-b09521e776b5.safetensors"),
    ],
    ids=["own", "wrapped", "trained"],
)
def test_a_defense_without_training_keeps_the_name_of_its_checkpoint(add: Add, origin: Origin, named: str) -> None:
    """The user knows no file of the cache, unless it has weights of its own; the worst case has the same name."""
    cached = {"checkpoint": "cache/digits-small-cnn-hrs-b09521e776b5.safetensors", "origin": origin}
    model = {"result": cached, "defenses": (HRS,), "checkpoint": "h" * 64}
    made = [add([5] * 4, attack=attack, **model) for attack in (CW_PGD, FGSM)]
    assert rows(made)["checkpoint"].tolist() == [named] * 3


def test_outcomes_are_read_once(add: Add) -> None:
    """Each file, whether its attack is alone, combined or compared with others."""
    read: list[int] = []

    def watched(stored: Stored) -> Stored:
        result, outcomes = stored
        return result, lambda: read.append(result.cell.seed) or outcomes()  # type: ignore[func-returns-value]

    alone = [watched(add([0] * 4, seed=seed)) for seed in range(2)]
    rows([*alone, watched(add([5] * 4, seed=2, defenses=(HRS,)))])
    assert read == [0, 1, 2]
    compared = [watched(add([5] * 4, seed=3, **cell)) for cell in ({}, {"defenses": (HRS,), "checkpoint": "h" * 64})]
    combined = [watched(add([5] * 4, seed=3, attack=CW_PGD, defenses=(HRS,), checkpoint="h" * 64))]
    rows([*compared, *combined])
    assert read == [0, 1, 2] + [3] * 3


def test_a_cell_with_damaged_outcomes_has_no_row(add: Add) -> None:
    """The other attacks on its model have their rows and their worst case without it."""
    stored = [
        add([10, 0, 10, 4]),
        add([0] * 4, attack=CW_PGD),
        add([9] * 4, attack=FGSM),
        add([0] * 4, seed=1),
    ]
    damaged = {stored[1][0].cell.id, stored[3][0].cell.id}

    def read(results: Sequence[Result]) -> Together | None:
        intact = [
            (result, outcomes()) for result, outcomes in stored if result in results and result.cell.id not in damaged
        ]
        return (
            ([result for result, _ in intact], Outcomes.stacked([outcomes for _, outcomes in intact]))
            if intact
            else None
        )

    table = table_of([result for result, _ in stored], read)
    pd.testing.assert_frame_equal(table, rows([stored[0], stored[2]]))
    assert attacks(table) == ["pgd", "fgsm", "worst-case"]


def test_a_worst_case_follows_the_attacks_of_its_threat(add: Add) -> None:
    """For each image the attack that it survives least, after the attacks of one model and threat; costs add up."""
    table = rows(
        [
            add([10, 0, 10, 4], result={"flags": ("no-eot", "zero-gradient")}),
            add([10, 0, 10, 4], eps=0.5),
            add([0, 10, 10, 6], attack=CW_PGD, result={"flags": ("zero-gradient",), "seconds": 2.0}, eot="exact"),
            add([0, 0, 10, 0], attack=CW_PGD, seed=1),
        ]
    )
    assert attacks(table) == ["pgd", "cw-pgd", "worst-case", "pgd", "cw-pgd"]
    worst = table.iloc[2]
    assert worst["robust_accuracy"] == pytest.approx(14 / 40)
    assert worst["flags"] == "zero-gradient"
    assert worst[["eot", "forwards", "backwards", "seconds"]].tolist() == ["", 200, 100, 3.5]
    assert worst["clean_accuracy"] == 1
    assert worst["eps"] == table["eps"][0]
    assert worst["cell"] not in set(table["cell"].drop(2))


def test_a_gate_sees_that_gradients_were_blinded(add: Add) -> None:
    """Square has no such flag, and what it breaks does not vouch for the rest: the worst case has it all the same."""
    square = MethodSpec(name="square")
    blind = add([10, 10, 10, 10], result={"flags": ("zero-gradient", "wrong-gradient")})
    table = rows([blind, add([10, 0, 0, 10], attack=square, result={"backwards": 0})])
    assert table["flags"].tolist() == ["zero-gradient;wrong-gradient", "", "wrong-gradient;zero-gradient"]
    table = rows([blind, add([0, 0, 0, 0], attack=square, result={"backwards": 0, "flags": ("unstable",)})])
    assert table["flags"].tolist()[2] == "unstable"


def test_an_attack_whose_condition_did_not_hold_has_no_row(add: Add) -> None:
    """It was not run: nobody is to read that it left anything. One that was run has a row and is in the worst case."""
    hopskipjump = {"attack": MethodSpec(name="hopskipjump"), "only_if": "blinded", "after": "a" * 20, "cascade": True}
    first, square = add([10] * 4), add([10, 0, 10, 10], attack=CW_PGD)
    skipped = add([10] * 4, result={"forwards": 0, "backwards": 0}, **hopskipjump)
    pd.testing.assert_frame_equal(rows([first, square, skipped]), rows([first, square]))
    table = rows([first, square, add([0] * 4, result={"backwards": 0}, **hopskipjump)])
    assert attacks(table) == ["pgd", "cw-pgd", "+hopskipjump", "worst-case"]
    assert table["robust_accuracy"][3] == 0


def test_rows_of_a_quick_look_are_marked(add: Add) -> None:
    """All rows of a model and threat of which all attacks follow gradients and leave something, alone or together."""
    square = add([10, 10, 10, 10], attack=MethodSpec(name="square"), result={"backwards": 0}, eps=0.2)
    table = rows(
        [
            *(add([10, 5, 0, 0]), add([10, 5, 5, 0], attack=CW_PGD)),
            *(add([10, 5, 0, 0], eps=0.2), square),
            *(add([10, 5, 0, 0], eps=0.3), add([0] * 4, eps=0.3, attack=CW_PGD)),
            add([10, 5, 0, 0], eps=0.4),
        ]
    )
    marked = table.groupby("eps", sort=False)["quick_look"].agg(list).tolist()
    assert marked == [[True] * 3, [False] * 3, [False] * 3, [True]]


def test_at_any_distance_a_worst_case_is_the_nearest(
    make_cell: MakeCell, make_outcomes: MakeOutcomes, make_result: MakeResult
) -> None:
    """Without a radius every attack succeeds, and the smaller perturbation of each image is the worst."""
    stored = []
    for number, far in enumerate(([0.1, 0.4], [0.3, 0.2])):
        outcomes = make_outcomes(clean=[1, 1], robust=[0, 0], distance=far)
        result, _ = make_result(make_cell(eps=None, attack=MethodSpec(name=f"attack-{number}")), outcomes)
        stored.append((result, partial(replace, outcomes)))
    assert rows(stored)["mean_linf"].tolist() == pytest.approx([0.25, 0.25, 0.15])


@pytest.mark.parametrize(
    "other",
    [
        {"checkpoint": "e" * 64},
        {"data": "e" * 64},
        {"norm": "l2"},
        {"eps": 0.5},
        {"eps": None},
        {"targeted": "all"},
        {"seed": 1},
        {"repeats": 5},
        {"accounting": "single-draw"},
    ],
    ids=str,
)
def test_a_worst_case_is_over_one_model_and_threat(add: Add, other: dict[str, Any]) -> None:
    """Nothing is combined across models, data, norms, radii, goals, seeds or numbers of draws."""
    assert "worst-case" not in attacks(rows([add([0] * 4), add([0] * 4, attack=CW_PGD, **other)]))


def test_the_order_of_a_worst_case_does_not_matter(add: Add) -> None:
    """The same attacks in another order are the same worst case."""
    pair = [add([10, 0, 10, 4]), add([0, 10, 10, 6], attack=CW_PGD)]
    first, second = rows(pair), rows(pair[::-1])
    for column in ("robust_accuracy", "cell", "mean_l2", "attack_success_rate"):
        assert first[column].iloc[2] == second[column].iloc[2]


def test_a_score_compares_with_the_undefended_model(add: Add) -> None:
    """All fell and 14 of 36 right draws still fall, for 10 points of clean accuracy: (100 - 38.9) / 10."""
    defended = add([9, 9, 4, 0], clean=[9, 9, 9, 9], defenses=(HRS,), checkpoint="h" * 64, eot="exact")
    table = rows([add([0] * 4, clean=[1] * 4, repeats=1), defended])
    assert pd.isna(table["des"][0])
    assert table["des"][1] == pytest.approx((100 - 100 * 14 / 36) / 10)
    assert table["des_low"][1] <= table["des"][1] <= table["des_high"][1]
    assert table["clean_accuracy_loss_within_interval"][1] is False


@pytest.mark.parametrize(
    "other",
    [
        {"model": "paper-cnn"},
        {"data": "e" * 64},
        {"norm": "l2"},
        {"eps": 0.5},
        {"targeted": "all"},
        {"seed": 1},
        {"attack": CW_PGD},
        {"defenses": (MethodSpec(name="jpeg"),)},
    ],
    ids=str,
)
def test_a_score_needs_its_like(add: Add, other: dict[str, Any]) -> None:
    """Another model, slice, threat, seed or attack is nothing to compare with, and neither is another defense."""
    defended = add([5] * 4, defenses=(HRS,), checkpoint="h" * 64)
    assert rows([add([0] * 4, **other), defended])["des"].isna().all()


def test_a_score_needs_one_undefended_model(add: Add) -> None:
    """Of two undefended checkpoints neither is the one; the gradient's draws do not matter."""
    defended = add([5] * 4, defenses=(HRS,), checkpoint="h" * 64, eot=10)
    bases = [add([0] * 4, checkpoint=name * 64, repeats=1) for name in "ab"]
    assert rows([bases[0], defended])["des"].notna().tolist() == [False, True]
    assert rows([*bases, defended])["des"].isna().all()


def test_worst_cases_are_compared_even_where_one_attack_is_all(add: Add) -> None:
    """An undefended model needs its attack once, a randomized one twice: their worst cases are compared all the same."""
    defended = [add([draws] * 4, defenses=(HRS,), checkpoint="h" * 64, eot=draws) for draws in (1, 5)]
    table = rows([add([0] * 4, repeats=1, clean=[1] * 4), *defended])
    assert attacks(table) == ["pgd", "pgd", "pgd", "worst-case"]
    assert table["des"].notna().tolist() == [False, True, True, True]
    assert table["des"][3] == pytest.approx(table["des"][1:3].min())


def test_models_that_never_fall_get_no_score(add: Add) -> None:
    """A defended model without one right answer prevents nothing."""
    result, outcomes = add([0] * 4, defenses=(HRS,), checkpoint="h" * 64)
    dead = replace(outcomes(), clean=np.ones((10, 4), dtype=np.int64))
    assert rows([add([0] * 4), (result, lambda: dead)])["des"].isna().all()


def test_a_store_of_several_models_keeps_them_apart(add: Add) -> None:
    """Two models, undefended and defended, of two seeds: each defended row is scored against its own."""

    def results() -> Iterator[Stored]:
        for model, left in (("small-cnn", 0), ("paper-cnn", 5)):
            for seed in (0, 1):
                key = f"{model}{seed}"
                yield add([left] * 4, model=model, seed=seed, checkpoint=f"{key}-none")
                yield add([5] * 4, clean=[9] * 4, model=model, seed=seed, checkpoint=f"{key}-hrs", defenses=(HRS,))

    table = rows(results())
    scores = table[table["defense"] == "hrs"]["des"].tolist()
    assert scores == pytest.approx([(100 - 400 / 9) / 10] * 2 + [(50 - 400 / 9) / 10] * 2)
    assert attacks(table) == ["pgd"] * 8


def test_failures_have_the_words_of_their_cells(make_cell: Callable[..., Cell]) -> None:
    """A failed cell is found by the same conditions as a finished one."""
    failures = [
        Failure(cell=make_cell(defenses=(HRS,)), eps="8/255", error="no"),
        Failure(cell=make_cell(eps=None), eps="", error="no"),
    ]
    table = failed_rows(failures)
    assert list(table.columns) == column_names()
    assert list(select(table, {"defense": ["hrs"], "eps": ["8/255"]}).index) == [0]
    assert failed_rows([]).empty


def test_a_table_is_made_without_torch() -> None:
    """Importing it would take longer than to read thousands of cells."""
    program = "import sys, robustbench_cli.benchmarks.reports.rows, robustbench_cli.benchmarks.reports.gates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
