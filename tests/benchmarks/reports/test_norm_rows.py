from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws
from robustbench_cli.benchmarks.reports.norm_rows import norms_table, readable_norms
from robustbench_cli.benchmarks.reports.scored_rows import ScoredRow
from robustbench_cli.core.errors import UserError

from ..conftest import MakeCell

IMAGES, DRAWS = 60, 4


@pytest.fixture
def scored(make_cell: MakeCell) -> Any:
    """Rows with random draws, and a survival that other draws have given."""
    rng = np.random.default_rng(0)

    def make(norm: str, eps: float | None = 0.1, *, draws: int = DRAWS, **row: Any) -> ScoredRow:
        share = rng.random(IMAGES)
        clean, robust = (rng.random((draws, IMAGES)) < chance for chance in (0.9, share))
        names = ("mean", "std", "corruption", "severity", "stop_when_decided")
        usual = dict.fromkeys(names) | {"dataset": "digits", "model": "m", "checkpoint": "a.pt", "defense": "none"}
        usual |= {"checkpoint_sha256": "a" * 64, "targeted": "no", "seed": 0, "accounting": "expected", "flags": ""}
        usual |= {"attack": "pgd", "norm": norm, "eps": "" if eps is None else f"{eps:g}", "eps_value": eps}
        usual |= {"n": IMAGES, "repeats": draws, "robust_accuracy": robust.mean()}
        return ScoredRow(
            row=usual | row,
            cells=[make_cell(norm=norm)],
            clean=ScoredDraws(right=clean),
            robust=ScoredDraws(right=robust),
            clean_vote=clean.all(axis=0),
            robust_vote=robust.all(axis=0),
            survival=share,
            labels=np.zeros(IMAGES, dtype=np.int64),
            clean_answers=(~clean).astype(np.int64),
            robust_answers=(~robust).astype(np.int64),
        )

    return make


def test_the_union_of_a_deterministic_model_is_what_no_attack_breaks(scored: Any) -> None:
    """By enumeration: an image counts if it is right under all attacks in all norms, each of which has its row too."""
    attacks = [scored("l2", 0.5, draws=1), scored("linf", draws=1), scored("linf", attack="fgsm", draws=1)]
    for attack in attacks:
        attack.survival[:] = attack.robust.right[0]
    linf, l2, union = norms_table(attacks).to_dict(orient="records")
    right = [attack.robust.right[0] for attack in attacks]
    assert [row["norm"] for row in (linf, l2, union)] == ["linf", "l2", "union"]
    assert l2["robust_accuracy"] == right[0].mean()
    assert linf["robust_accuracy"] == (right[1] & right[2]).mean()
    assert union["robust_accuracy"] == (right[0] & right[1] & right[2]).mean()
    assert union["eps"] == "linf 0.1, l2 0.5"
    assert union["robust_accuracy_low"] < union["robust_accuracy"] < union["robust_accuracy_high"]


def test_the_union_of_a_randomized_model_selects_on_other_draws(scored: Any) -> None:
    """For each image, the attack of the least survival scores; the least right share would be an optimistic attacker's."""
    attacks = [scored("linf"), scored("l2", 0.5), scored("l1", 2.0)]
    union = norms_table(attacks).to_dict(orient="records")[-1]
    expected = optimistic = 0.0
    for image in range(IMAGES):
        shares = [attack.robust.right[:, image].mean() for attack in attacks]
        expected += shares[min(range(3), key=lambda number: attacks[number].survival[image])]
        optimistic += min(shares)
    assert union["robust_accuracy"] == pytest.approx(expected / IMAGES)
    assert optimistic < expected


def test_people_get_a_line_for_each_model(scored: Any) -> None:
    """Models of equal names have their files, and flags are below; a model in one norm has no line."""
    other = {"checkpoint": "b.pt", "checkpoint_sha256": "b" * 64}
    rows = [
        scored("linf"),
        scored("l2", 0.5, flags="zero-gradient"),
        scored("linf", **other),
        scored("l1", 2.0, **other),
    ]
    shown = readable_norms(norms_table([*rows, scored("linf", defense="hrs", checkpoint_sha256="c" * 64)]))
    assert shown.title == f"digits, {IMAGES} images"
    assert shown.headers == ["model", "clean", "linf 0.1", "l2 0.5", "l1 2", "union"]
    assert [line[0] for line in shown.lines] == ["none, a.pt", "none, b.pt"]
    assert [line[3] == "-" for line in shown.lines] == [False, True]
    assert list(shown.caption)[1:] == ["none, a.pt has the flags zero-gradient"]
    assert len({len(line) for line in [shown.headers, *shown.lines]}) == 1
    with_data = readable_norms(norms_table([*rows, *(scored(norm, dataset="mnist") for norm in ("linf", "l2"))]))
    assert with_data.headers[:2] == ["data", "model"]


def test_what_has_no_union_is_refused(scored: Any) -> None:
    """One norm, attacks without a radius, and two radii in a norm, of which the user chooses."""
    for rows in ([scored("linf")], [scored("linf"), scored("l2", None)], [scored("linf"), scored("l2", seed=1)]):
        with pytest.raises(UserError, match="--union: no model was attacked at a radius in two norms"):
            norms_table(rows)
    with pytest.raises(
        UserError, match=r"m none was attacked in linf at the radii 0\.1, 0\.2: choose one in each norm"
    ):
        norms_table([scored("linf"), scored("linf", 0.2), scored("l2", 0.5)])
