from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from robustbench_cli.benchmarks.evaluation.saved_images import SavedImages

from . import gallery

EPS = "0.21"
"""Under an attack of this radius 5 of 100 images are left of the network itself. It is not of 8 bits."""

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


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of 8 bits, and beside them the weights of a network that has learned them."""
    folder = tmp_path_factory.mktemp("gallery")
    loaded = load_digits()
    order = np.random.default_rng(0).permutation(len(loaded.images))
    images = np.round(loaded.images * 255 / 16).astype(np.uint8)[order]
    labels = loaded.target.astype(np.int64)[order]
    test, train = slice(200), slice(200, None)
    np.savez(
        folder / "digits.npz",
        images=images[test],
        labels=labels[test],
        train_images=images[train],
        train_labels=labels[train],
    )
    pixels, classes = torch.from_numpy(images[train])[:, None] / 255, torch.from_numpy(labels[train])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = gallery.network()
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(10):
            for rows in torch.randperm(len(pixels)).split(64):
                optimizer.zero_grad()
                cross_entropy(network(pixels[rows]), classes[rows]).backward()
                optimizer.step()
    torch.save(network.state_dict(), folder / "weights.pt")
    return folder


@pytest.fixture
def attacked(
    advdef: Callable[..., Any], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Table]:
    """Runs ``advdef attack`` on a broken defense: the default attacks, or those of a suite."""
    monkeypatch.setitem(os.environ, gallery.WEIGHTS, str(digits / "weights.pt"))

    def run(defense: type[gallery.Base], *words: str) -> Table:
        output = tmp_path / "rows.json"
        ended = advdef(
            *(
                "attack",
                "--model",
                f"{gallery.__file__}:{defense.__name__}",
                "--dataset",
                f"npz:{digits / 'digits.npz'}",
            ),
            *("--eps", EPS, "--n", str(N), "--store", str(tmp_path / "store"), "-o", str(output)),
            *(words or SHORT_CW),
        )
        assert ended.code == 0, ended.err
        return Table([row for row in json.loads(output.read_text()) if row["norm"] == "linf"], ended.out, ended.err)

    return run


@pytest.mark.parametrize(
    ("defense", "caught_by"),
    [
        (gallery.Base, set()),
        (gallery.Saturated, set()),
        (gallery.OneHot, NO_GRADIENT),
        (gallery.LogOfSoftmax, NO_GRADIENT),
        (gallery.NoGradient, ANOTHER_GRADIENT),
        (gallery.Rounded, ANOTHER_GRADIENT),
        (gallery.Thermometer, ANOTHER_GRADIENT),
        (gallery.Jpeg, ANOTHER_GRADIENT),
        (gallery.NoisyGradient, {"wrong-gradient"}),
        (gallery.RejectsOffTheGrid, ANOTHER_GRADIENT),
        (gallery.ByTheBatch, {"unstable"}),
        (gallery.TurnedOffTheGrid, ANOTHER_GRADIENT),
        (gallery.FlatNearby, ANOTHER_GRADIENT),
        (gallery.HalfWithoutGradient, ANOTHER_GRADIENT),
        (gallery.CutInside, ANOTHER_GRADIENT),
        (gallery.Remembers, ANY_FLAG),
        (gallery.FalseDraws, ANY_FLAG),
    ],
)
def test_a_broken_defense_is_caught_by_the_default_attacks(
    attacked: Callable[..., Table], defense: type[gallery.Base], caught_by: set[str]
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


@pytest.mark.parametrize(
    "defense", [gallery.TurnedOffTheGrid, gallery.FlatNearby, gallery.HalfWithoutGradient, gallery.CutInside]
)
def test_a_quick_look_that_finds_too_little_says_so(
    attacked: Callable[..., Table], defense: type[gallery.Base]
) -> None:
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
        table = attacked(gallery.Base, *words)
        assert [row["flags"] for row in table.rows] == [""] * len(table.rows)
        assert "quick look" not in table.out
        assert table.row("hopskipjump") is None
        assert ("+hopskipjump linf eps 0.21: skipped" in table.err) == bool(words)


@pytest.mark.parametrize("defense", [gallery.OneHot, gallery.LogOfSoftmax, gallery.Thermometer])
def test_standard_goes_on_to_decisions_where_gradients_vanish(
    attacked: Callable[..., Table], defense: type[gallery.Base]
) -> None:
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
        assert last["robust_accuracy"] < square["robust_accuracy"]
        assert last["robust_accuracy"] == worst["robust_accuracy"]
    assert worst["robust_accuracy"] <= 0.1 or "zero-gradient" in worst["flags"]


def test_an_attack_that_was_not_needed_saves_the_images_of_the_one_before(
    attacked: Callable[..., Table], tmp_path: Path
) -> None:
    """Whoever asked for the images of every cell has them, and they are as good."""
    table = attacked(gallery.Base, "--suite", "standard", "--save-images", str(tmp_path / "images"))
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
