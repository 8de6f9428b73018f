from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_cli.benchmarks.comparison.gallery import broken_defenses
from robustbench_cli.benchmarks.comparison.gallery.base.examine import EPS
from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages

N = 20

SHORT_CW = ("--set", "cw.binary_search_steps=1", "--set", "cw.steps=2")
"""The tests look at linf only, and the default attacks include C&W, in l2 and with thousands of passes per image."""

NEAR_THE_TRUTH = 0.15
"""What may be left where the network itself, and the defenses, are worth 0.05 to 0.1."""

NO_GRADIENT = {"zero-gradient"}
ANOTHER_GRADIENT = {"zero-gradient", "wrong-gradient"}
ANY_FLAG = {"..."}


@dataclass(frozen=True)
class Table:
    """What a command told.

    Attributes:
        rows: Of all attacks, in linf.
        out: What was printed.
        err: What was told on the way.
    """

    rows: list[dict[str, Any]]
    out: str
    err: str

    @property
    def headline(self) -> dict[str, Any]:
        """The row that gates look at."""
        return next(row for row in self.rows if row["attack"] == "worst-case")

    def row(self, attack: str) -> dict[str, Any] | None:
        """The row of an attack with its usual parameters, first or later in a cascade."""
        return next((row for row in self.rows if row["attack"].removeprefix("+") == attack), None)


@pytest.fixture
def attacked(advdef: Callable[..., Any], tmp_path: Path) -> Callable[..., Table]:
    """Runs ``advdef attack`` on a member of the gallery, or on its plain network: the default attacks, or those of a suite."""

    def run(name: str, *words: str) -> Table:
        output = tmp_path / "rows.json"
        kind = broken_defenses().get(name)
        model = "small-cnn" if kind is None else f"{inspect.getfile(kind)}:{kind.__name__}"
        ended = advdef(
            *("attack", "--model", model, "--dataset", "digits", "--eps", str(EPS), "--n", str(N)),
            *("--store", str(tmp_path / "store"), "-o", str(output)),
            *(words or SHORT_CW),
        )
        assert ended.code == 0, ended.err
        return Table([row for row in json.loads(output.read_text()) if row["norm"] == "linf"], ended.out, ended.err)

    return run


@pytest.mark.parametrize(
    ("defense", "caught_by"),
    [
        ("small-cnn", set()),
        ("saturated-logits", set()),
        ("one-hot", NO_GRADIENT),
        ("log-of-softmax", NO_GRADIENT),
        ("no-gradient", ANOTHER_GRADIENT),
        ("quantized-input", ANOTHER_GRADIENT),
        ("thermometer", ANOTHER_GRADIENT),
        ("jpeg-codec", ANOTHER_GRADIENT),
        ("noisy-gradient", {"wrong-gradient"}),
        ("coarse-off-the-grid", ANOTHER_GRADIENT),
        ("batch-statistics", {"unstable"}),
        ("reversed-off-the-grid", ANOTHER_GRADIENT),
        ("flat-nearby", ANOTHER_GRADIENT),
        ("masked-pixels", ANOTHER_GRADIENT),
        ("cut-inside", ANOTHER_GRADIENT),
        ("remembers", ANY_FLAG),
        ("false-draws", ANY_FLAG),
    ],
)
def test_a_broken_defense_is_caught_by_the_default_attacks(
    attacked: Callable[..., Table], defense: str, caught_by: set[str]
) -> None:
    """By a number near the truth without a flag, or by one of the flags that were made for it, on the headline."""
    table = attacked(defense)
    raised = set(filter(None, table.headline["flags"].split(";")))
    if caught_by == ANY_FLAG:
        assert raised
    elif caught_by:
        assert raised & caught_by
    else:
        assert (table.headline["robust_accuracy"] <= NEAR_THE_TRUTH, raised) == (True, set())


@pytest.mark.parametrize("defense", ["reversed-off-the-grid", "flat-nearby", "masked-pixels", "cut-inside"])
def test_a_quick_look_that_finds_too_little_says_so(attacked: Callable[..., Table], defense: str) -> None:
    """The default attacks leave much more than there is, and name the suite that does not: with it no line is left."""
    quick = attacked(defense)
    assert quick.headline["robust_accuracy"] > 2 * NEAR_THE_TRUTH
    assert all(row["quick_look"] for row in quick.rows)
    assert "--suite standard" in " ".join(quick.out.split())
    standard = attacked(defense, "--suite", "standard")
    assert standard.headline["robust_accuracy"] <= NEAR_THE_TRUTH
    assert not any(row["quick_look"] for row in standard.rows)
    assert "quick look" not in standard.out


def test_the_network_itself_raises_nothing(attacked: Callable[..., Table]) -> None:
    """No flag on any row, no line, and no attack by decisions, for which nobody pays."""
    for words in ((), ("--suite", "standard")):
        table = attacked("small-cnn", *words)
        assert [row["flags"] for row in table.rows] == [""] * len(table.rows)
        assert "quick look" not in table.out
        assert table.row("hopskipjump") is None
        assert ("+hopskipjump linf eps 0.15: skipped" in table.err) == bool(words)


@pytest.mark.parametrize("defense", ["one-hot", "log-of-softmax", "thermometer"])
def test_standard_goes_on_to_decisions_where_gradients_vanish(attacked: Callable[..., Table], defense: str) -> None:
    """And finds the truth, or the headline keeps the flag."""
    table = attacked(defense, "--suite", "standard")
    square, last, worst = (
        table.row("square(early_stopping=true,candidates=4)"),
        table.row("hopskipjump"),
        table.headline,
    )
    assert square is not None
    if last is None:
        assert square["robust_accuracy"] <= 0.1
    else:
        assert last["forwards"] > 0
        assert last["robust_accuracy"] < square["robust_accuracy"] or square["robust_accuracy"] <= 0.1
        assert last["robust_accuracy"] == worst["robust_accuracy"]
    assert worst["robust_accuracy"] <= 0.1 or "zero-gradient" in worst["flags"]


def test_an_attack_that_was_not_needed_saves_the_images_of_the_one_before(
    attacked: Callable[..., Table], tmp_path: Path
) -> None:
    """Whoever asked for the images of every cell has them, and they are as good."""
    table = attacked("small-cnn", "--suite", "standard", "--save-images", str(tmp_path / "images"))
    saved = {
        path.stem: SavedImages.read(tmp_path / "images", path.stem) for path in (tmp_path / "images").glob("*.npz")
    }
    square = table.row("square(early_stopping=true,candidates=4)")
    assert square is not None
    own = saved[square["cell"]].perturbed_levels
    (skipped,) = set(saved) - {row["cell"] for row in table.rows} - searches(tmp_path / "store")
    assert torch.equal(saved[skipped].perturbed_levels, own)


def searches(store: Path) -> set[str]:
    """The cells of minimal-norm attacks at any distance, which no row is of."""
    return {path.stem for path in (store / "searches" / "cells").glob("*.json")}
