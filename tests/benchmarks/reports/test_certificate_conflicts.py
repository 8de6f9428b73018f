from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
from robustbench_cli.benchmarks.certification.by_linear_relaxation import LinearRelaxation
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing, VoteCounts
from robustbench_cli.benchmarks.certification.certified_radius import CertifiedRadius
from robustbench_cli.benchmarks.certification.certify import CertifiedModel
from robustbench_cli.benchmarks.certification.procedures import Procedure
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.reports.certificate_conflicts import (
    certificates_of,
    certified_images,
    contradiction,
    is_proof,
)
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.defenses import registry as defenses

IMAGES = 60
SMOOTHING = Smoothing(sigma=0.25, samples=1000)
# 0.25 times the normal quantile of the bound 0.001 ** (1 / 1000).
RADIUS = 0.25 * stats.norm.ppf(0.001 ** (1 / 1000))


def model_of(counts: Sequence[int], **changes: Any) -> CertifiedModel:
    """A certified model whose images are all of class 0, and so many of whose 1000 draws said so."""
    usual: dict[str, Any] = {
        "checkpoint": "c" * 64,
        "described": {"dataset": "digits"},
        "procedure": SMOOTHING,
        "labels": np.zeros(len(counts), dtype=np.int64),
        "images": [VoteCounts(index=place, top=0, count=count, seconds=0) for place, count in enumerate(counts)],
    }
    return CertifiedModel(**(usual | changes))


def cell_of(make_cell: Callable[..., Cell], *, defense: str = "randomized-smoothing", **changes: Any) -> Cell:
    """A cell that attacks it in l2."""
    parameters = changes.pop("parameters", {})
    spec = method_spec(defenses, defense, parameters).spec
    return make_cell(**({"defenses": (spec,), "norm": "l2", "eps": 0.25, "n": IMAGES, "repeats": 10} | changes))


SURE = model_of([1000] * IMAGES)


def outcomes_of(predictions: Any, l2: float) -> Outcomes:
    """Outcomes of an untargeted attack with predictions ``(R, N)`` at one distance."""
    draws, images = predictions.shape
    clean = np.zeros((draws, images), dtype=np.int64)
    distance = np.full((1, images), l2)
    return Outcomes(
        labels=np.zeros(images, dtype=np.int64),
        targets=np.zeros((0, images), dtype=np.int64),
        clean=clean,
        clean_survival=np.ones(images),
        perturbed=predictions[None],
        survival=np.zeros((1, images)),
        distance=distance,
        l2=distance,
        linf=distance,
    )


def test_images_that_fall_inside_their_radius(make_cell: Callable[..., Cell]) -> None:
    """Twenty that fall in every answer are told; as far away as the radius, by half of the answers or where none is certified, not."""
    cell, predictions = cell_of(make_cell), np.zeros((10, IMAGES), dtype=np.int64)
    predictions[:, :20] = 3
    told = contradiction(cell, outcomes_of(predictions, 0.5), SURE)
    assert told is not None
    assert "20 of 60 images were broken inside their certified radius" in told
    assert cell.id in told
    assert contradiction(cell, outcomes_of(predictions, RADIUS), SURE) is None
    assert contradiction(cell, outcomes_of(predictions, RADIUS * 0.999), SURE) is not None
    assert contradiction(cell, outcomes_of(predictions, 0.5), model_of([500] * IMAGES)) is None
    predictions[:5] = 0
    assert contradiction(cell, outcomes_of(predictions, 0.5), SURE) is None


def test_nothing_is_told_of_images_that_were_chosen_on_their_draws(make_cell: Callable[..., Cell]) -> None:
    """Of single draws, an image that falls in any of several attacks' draws has fallen, whatever its chance in each."""
    fallen, single = outcomes_of(np.full((1, IMAGES), 3), 0.1), {"parameters": {"decision": "one-draw"}, "repeats": 1}
    assert contradiction(cell_of(make_cell, **single), fallen, SURE) is not None
    assert contradiction(cell_of(make_cell, accounting="single-draw", **single), fallen, SURE) is None


def test_slices_of_other_lengths(make_cell: Callable[..., Cell]) -> None:
    """What both have is compared, if it has the same labels."""
    cell, predictions = cell_of(make_cell), np.full((10, 2 * IMAGES), 3)
    outcomes = outcomes_of(predictions, 0.1)
    assert "60 of 60 images" in str(contradiction(cell, outcomes, SURE))
    other = replace(outcomes, labels=np.arange(2 * IMAGES) % 10)
    assert contradiction(cell, other, SURE) is None


@pytest.mark.parametrize("decision", ["vote", "one-draw"])
def test_chance_alone_is_seldom_told(make_cell: Callable[..., Cell], decision: str) -> None:
    """Where each draw is of the certified class with a chance of one half, a thousandth of all cells is told at most.

    Binomial test over 4000 simulated cells, level 0.001.
    """
    cell = cell_of(make_cell, parameters={"decision": decision, "draws": 10}, repeats=4)
    random, draws, told = np.random.default_rng(0), 10 if decision == "vote" else 1, 0
    for _ in range(4000):
        votes = random.binomial(draws, 0.5, size=(4, IMAGES))
        # A tie falls to the other class, as it may.
        told += contradiction(cell, outcomes_of((votes <= draws / 2).astype(np.int64), 0.1), SURE) is not None
    assert stats.binomtest(told, 4000, 0.001, alternative="greater").pvalue > 0.001


def test_which_certificate_speaks_of_a_cell(make_cell: Callable[..., Cell]) -> None:
    """That of the same model, data set and noise, of the most images; none of another rule, noise or defense."""
    few = model_of([1000])
    assert certificates_of(cell_of(make_cell), [few, SURE, few]) == [SURE]
    assert certificates_of(cell_of(make_cell, parameters={"decision": "one-draw"}), [few]) == [few]
    assert certificates_of(cell_of(make_cell, defense="macer"), [few]) == [few]
    proofs = [proven_model(0.1), proven_model(0.2)]
    assert certificates_of(cell_of(make_cell), [few, *proofs, SURE]) == [*proofs, SURE]
    assert [is_proof(model) for model in (few, *proofs)] == [False, True, True]
    for changes in (
        {"parameters": {"decision": "mean"}},
        {"parameters": {"sigma": 0.5}},
        {"checkpoint": "e" * 64},
        {"dataset": "mnist"},
        {"defense": "noise-injection"},
        {"defenses": ()},
        {"defenses": (MethodSpec(name="gone.py:Mine", parameters={"sigma": 0.25, "decision": "vote"}),)},
    ):
        assert certificates_of(cell_of(make_cell, **changes), [few]) == []


def certified_accuracy(cell: Cell, *models: CertifiedModel) -> float:
    """Over the images that a certificate has; NaN without any."""
    known, certified = certified_images(cell, np.zeros(IMAGES, dtype=np.int64), models)
    assert not (certified & ~known).any()
    return float(certified.sum() / known.sum()) if known.any() else math.nan


def proven_model(radius: float, images: int = IMAGES, procedure: Procedure | None = None) -> CertifiedModel:
    """A proof of the same radius for all images."""
    return model_of(
        [0] * images,
        procedure=procedure or Intervals(),
        images=[CertifiedRadius(index=place, predicted=0, radius=radius, seconds=0) for place in range(images)],
    )


def test_images_certified_at_the_radius_of_a_cell(make_cell: Callable[..., Cell]) -> None:
    """Those with a radius as large; nothing in another norm, at any distance, or of other images."""
    # 700 of 1000 draws bound the probability by 0.653 from below, so the radius is below 0.25 * 0.4 and above 0.25 *
    # 0.38.
    model = model_of([1000, 1000, 700, 400])
    accuracies = [certified_accuracy(cell_of(make_cell, eps=eps), model) for eps in (0.0, 0.095, 0.1, 0.6, 0.7)]
    assert accuracies == [0.75, 0.75, 0.5, 0.5, 0.0]
    assert math.isnan(certified_accuracy(cell_of(make_cell, norm="linf"), model))
    assert math.isnan(certified_accuracy(cell_of(make_cell, eps=None), model))
    assert math.isnan(certified_accuracy(cell_of(make_cell), replace(model, labels=np.array([1, 0, 0, 0]))))


def test_several_certificates_add_up(make_cell: Callable[..., Cell]) -> None:
    """An image is certified if one of them certifies it."""
    cell = make_cell(defenses=(), norm="linf", eps=0.1)
    assert certified_accuracy(cell, proven_model(0.05), proven_model(0.1, images=15)) == 0.25
    assert certified_accuracy(cell, proven_model(0.05)) == 0
    other = proven_model(0.5, procedure=LinearRelaxation(eps=(0.5,), norm="l2"))
    assert certified_accuracy(cell, proven_model(0.05), other) == 0


def test_a_proof_is_contradicted_by_one_image(make_cell: Callable[..., Cell]) -> None:
    """Of a certificate by intervals one image that falls nearer in linf is told, whatever the norm; one beyond is not."""
    proven = proven_model(0.05)
    cell = make_cell(defenses=(), norm="linf", eps=0.04, n=IMAGES, repeats=1)
    assert certificates_of(cell, [proven]) == [proven]
    assert certified_accuracy(cell, proven) == 1
    assert certified_accuracy(make_cell(defenses=(), norm="linf", eps=0.06), proven) == 0
    assert math.isnan(certified_accuracy(make_cell(defenses=(), norm="l2", eps=0.04), proven))
    predictions = np.zeros((1, IMAGES), dtype=np.int64)
    assert contradiction(cell, outcomes_of(predictions, 0.04), proven) is None
    predictions[:, 7] = 2
    told = contradiction(cell, outcomes_of(predictions, 0.04), proven)
    assert told is not None
    assert "1 of 60 images were broken inside their certified radius, by intervals in linf" in told
    assert contradiction(cell, outcomes_of(predictions, 0.05), proven) is None
    in_l1 = proven_model(0.05, procedure=LinearRelaxation(eps=(0.05,), norm="l1"))
    assert contradiction(cell, outcomes_of(predictions, 0.04), in_l1) is None
    attacked = make_cell(defenses=(), norm="l1", eps=0.04, n=IMAGES, repeats=1)
    assert "by linear in l1, which is impossible" in str(contradiction(attacked, outcomes_of(predictions, 0.04), in_l1))


@pytest.mark.parametrize(
    "name", ["hrs:/evil.py:Evil", "randomized-smoothing:evil.py:Evil", "evil:Evil", "./evil.py:Evil", "gone", "", "pgd"]
)
def test_a_store_does_not_choose_what_code_runs(
    make_cell: Callable[..., Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A cell's name is looked up among what is installed; code that it names is not imported."""
    for folder in ("hrs:", "randomized-smoothing:"):
        (tmp_path / folder).mkdir()
    for file in ("evil", "hrs:/evil", "randomized-smoothing:evil"):
        (tmp_path / f"{file}.py").write_text("raise SystemExit('code that a cell names has run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert certificates_of(cell_of(make_cell, defenses=(MethodSpec(name=name),)), [SURE]) == []


@pytest.mark.parametrize(
    ("parameters", "fits"),
    [({}, True), ({"sigma": 0.25}, True), ({"sigma": "x"}, False), ({"sigma": None}, False), ({"more": 1}, False)],
)
def test_parameters_that_a_cell_lacks(make_cell: Callable[..., Cell], parameters: dict[str, Any], fits: bool) -> None:
    """Those of an older version have their defaults; of others, no certificate is known."""
    cell = cell_of(make_cell, defenses=(MethodSpec(name="randomized-smoothing", parameters=parameters),))
    assert certificates_of(cell, [SURE]) == ([SURE] if fits else [])
    predictions = np.full((10, IMAGES), 3)
    assert contradiction(cell, outcomes_of(predictions, 0.5), SURE) is not None
