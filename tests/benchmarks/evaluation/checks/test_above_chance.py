from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.above_chance import AboveChance

from ...conftest import MakeOutcomes
from .conftest import MakeProbe, MakeRow, MakeRows


@pytest.mark.parametrize(
    ("eps", "norm", "right", "changes", "flagged"),
    [
        (0.5, "linf", 40, {}, True),
        (0.5, "linf", 20, {}, False),
        (0.49, "linf", 40, {}, False),
        (1.0, "linf", 40, {}, True),
        (0.5, "l2", 40, {}, False),
        (None, "l2", 40, {}, True),
        (None, "l2", 10, {}, False),
        (0.5, "linf", 40, {"access": "none"}, False),
        (0.5, "linf", 40, {"targeted": "next"}, False),
    ],
)
def test_more_than_one_class_survives(
    make_outcomes: MakeOutcomes,
    make_row: MakeRow,
    make_rows: MakeRows,
    eps: float | None,
    norm: str,
    right: int,
    changes: dict[str, Any],
    flagged: bool,
) -> None:
    """Wilson's lower end for 40 right images of 100 is 0.309; ten or five classes are equally frequent."""
    outcomes = make_outcomes(clean=[1] * 100, robust=[1] * right + [0] * (100 - right))
    frequent = 20 if right == 20 else 10
    labels = np.repeat(np.arange(100 // frequent), frequent)
    outcomes = replace(
        outcomes, labels=labels, clean=labels[None], perturbed=np.where(outcomes.perturbed == 0, labels, labels + 1)
    )
    found = AboveChance("above-chance").finding_in_rows(make_rows(make_row(outcomes, eps, **changes), norm=norm))
    assert (found is not None) == flagged


@pytest.mark.parametrize("draws", [1, 2])
def test_a_randomized_model_may_have_no_perturbation_that_fools_every_draw(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows, draws: int
) -> None:
    """So that a minimal-norm attack on it proves nothing."""
    outcomes = make_outcomes(clean=[draws] * 100, robust=[draws] * 100, draws=draws)
    labels = np.repeat(np.arange(10), 10)
    right = np.broadcast_to(labels, (draws, 100))
    outcomes = replace(outcomes, labels=labels, clean=right, perturbed=right[None])
    found = AboveChance("above-chance").finding_in_rows(make_rows(make_row(outcomes, None)))
    assert (found is not None) == (draws == 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("masked", [True, False])
def test_in_the_model_the_ball_holds_every_image(make_probe: MakeProbe, norm: str, masked: bool) -> None:
    """A linear model is broken on each, unless its gradient is hidden."""

    class Model(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen = (2 * images).round() / 2 + 0 * images if masked else images
            lead = seen[:, 0, :8].mean((1, 2)) - seen[:, 0, 8:].mean((1, 2))
            return torch.stack([lead, -lead], 1)

    labels = torch.arange(60) % 2
    images = torch.full((60, 1, 16, 16), 0.2)
    images[labels == 0, :, :8] = 0.8
    images[labels == 1, :, 8:] = 0.8
    found = AboveChance("above-chance").finding_in_model(make_probe(Model(), images, labels, norm=norm))
    assert (found is not None) == masked
    if found is not None:
        assert found.figures["robust_accuracy"] > found.figures["chance"] == 0.5
