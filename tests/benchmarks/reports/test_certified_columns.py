from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_cli.benchmarks.certification.by_interval_bounds import Intervals
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing, VoteCounts
from robustbench_cli.benchmarks.certification.certified_radius import CertifiedRadius
from robustbench_cli.benchmarks.certification.certify import CertifiedModel
from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.reports.certified_columns import Contradictions, add_certified_columns
from robustbench_cli.benchmarks.reports.columns import WORST_CASE
from robustbench_cli.benchmarks.store.cell import Cell
from robustbench_cli.defenses import registry as defenses

MakeCell = Callable[..., Cell]

RADII = [0.2, 0.2, 0.05, 0.05, 0.0, 0.2]
"""Certified radii; the last image is certified for a wrong class."""


def model_of(radii: list[float]) -> CertifiedModel:
    return CertifiedModel(
        checkpoint="c" * 64,
        described={"dataset": "digits"},
        procedure=Intervals(),
        labels=np.zeros(len(radii), dtype=np.int64),
        images=[
            CertifiedRadius(index=index, predicted=int(index == 5), radius=radius, seconds=0)
            for index, radius in enumerate(radii)
        ],
    )


def outcomes_of(broken: list[int], *, distance: float = 0.1, images: int = 6, draws: int = 1) -> Outcomes:
    """Outcomes of an attack that breaks some images; image 5 is wrong from the start."""
    clean = np.zeros((draws, images), dtype=np.int64)
    clean[:, 5:] = 1
    perturbed = clean.copy()
    perturbed[:, broken] = 2
    fallen = (perturbed != 0).mean(axis=0)
    distances = np.full((1, images), distance)
    return Outcomes(
        labels=np.zeros(images, dtype=np.int64),
        targets=np.zeros((0, images), dtype=np.int64),
        clean=clean,
        clean_survival=(clean == 0).mean(axis=0),
        perturbed=perturbed[None],
        survival=(1 - fallen)[None],
        distance=distances,
        l2=distances,
        linf=distances,
    )


@pytest.fixture
def attacked(make_cell: MakeCell) -> Callable[..., Cell]:
    return partial(make_cell, defenses=(), norm="linf", eps=0.1, n=6, repeats=1)


def add(
    cells: list[Cell], outcomes: list[Outcomes], *models: CertifiedModel, worst: bool = False
) -> tuple[pd.DataFrame, Contradictions]:
    """The columns of a table of cells and, at its end, a worst case."""
    rows: list[dict[str, Any]] = [{"cell": cell.id, "attack": cell.attack_label, "flags": "unstable"} for cell in cells]
    table = pd.DataFrame([*rows, *([{"cell": "w", "attack": WORST_CASE, "flags": ""}] if worst else [])])
    pairs = [(cell, partial(lambda values: values, values)) for cell, values in zip(cells, outcomes, strict=True)]
    return table, add_certified_columns(table, pairs, models)


def test_the_gap_is_counted_image_by_image(attacked: Callable[..., Cell]) -> None:
    """Two images are certified at 0.1, one is wrong, one is broken: two of six are open."""
    table, contradictions = add([attacked()], [outcomes_of([4])], model_of(RADII))
    assert table["certified_accuracy"].tolist() == pytest.approx([2 / 6])
    assert table["certified_gap"].tolist() == pytest.approx([2 / 6])
    assert contradictions == Contradictions()


def test_a_worst_case_counts_what_any_attack_broke(attacked: Callable[..., Cell]) -> None:
    """Its gap is smaller than that of each attack, and its certified accuracy the same."""
    cells = [attacked(), attacked(attack=MethodSpec(name="fgsm"))]
    table, _ = add(cells, [outcomes_of([4]), outcomes_of([3])], model_of(RADII), worst=True)
    assert table["certified_gap"].tolist() == pytest.approx([2 / 6, 2 / 6, 1 / 6])
    assert table["certified_accuracy"].tolist() == pytest.approx([2 / 6] * 3)


def test_images_that_only_one_side_has(attacked: Callable[..., Cell]) -> None:
    """Both columns are over the images that both have."""
    table, _ = add([attacked()], [outcomes_of([4])], model_of(RADII[:3]))
    assert table.loc[0, "certified_accuracy"] == pytest.approx(2 / 3)
    assert table.loc[0, "certified_gap"] == pytest.approx(1 / 3)
    table, _ = add([attacked()], [outcomes_of([4], images=8)], model_of(RADII))
    assert table.loc[0, "certified_gap"] == pytest.approx(2 / 6)


def test_rows_without_a_certificate(attacked: Callable[..., Cell]) -> None:
    """They have no number; without any certificate there are no columns."""
    cells = [attacked(), attacked(norm="l2"), attacked(checkpoint="e" * 64)]
    table, _ = add(cells, [outcomes_of([4])] * 3, model_of(RADII))
    assert table["certified_gap"].isna().tolist() == [False, True, True]
    table, _ = add(cells[1:], [outcomes_of([4])] * 2, model_of(RADII))
    assert [*table.columns] == ["cell", "attack", "flags"]


def test_contradictions_of_both_kinds(make_cell: MakeCell, attacked: Callable[..., Cell]) -> None:
    """A broken image that is proven is impossible; broken votes may be chance."""
    cell = attacked()
    other = attacked(norm="l2")
    certificates = model_of(RADII), model_of(RADII)
    table, contradictions = add([other, cell], [outcomes_of([4]), outcomes_of([0, 4])], *certificates, worst=True)
    assert table["flags"].tolist() == ["unstable", "unstable;certificate-contradicted", "certificate-contradicted"]
    assert [*contradictions.of_proofs] == [cell.id]
    # One line for each of the two proofs.
    assert ["1 of 3 images were broken" in line for line in contradictions.of_proofs[cell.id]] == [True, True]
    assert contradictions.of_smoothing == {}
    smoothed = replace(
        model_of([0.0] * 60),
        procedure=Smoothing(sigma=0.25, samples=1000),
        images=[VoteCounts(index=index, top=0, count=1000, seconds=0) for index in range(60)],
    )
    spec = method_spec(defenses, "randomized-smoothing", {}).spec
    voted = make_cell(defenses=(spec,), norm="l2", eps=0.25, n=60, repeats=10)
    table, contradictions = add([voted], [outcomes_of([*range(40)], images=60, draws=10)], smoothed)
    assert ([*contradictions.of_smoothing], contradictions.of_proofs) == ([voted.id], {})
    assert not math.isnan(table.loc[0, "certified_gap"])
