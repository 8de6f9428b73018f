from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.base.row_group import AuditedDraws
from robustbench_cli.benchmarks.evaluation.checks.weaker_than_audit import WeakerThanAudit
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws

from ...conftest import MakeOutcomes
from .conftest import MakeProbe, MakeRow, MakeRows

CHECK = WeakerThanAudit("weaker-than-audit")

N = 400


def audit(right: int, *, images: int = N, draws: int = 1, **changes: Any) -> AuditedDraws:
    """An audit whose attack left the first images."""
    left = np.tile(np.arange(images) < right, (draws, 1))
    usual: dict[str, Any] = {"check": CHECK.name, "attack": "PGD with 40 steps", "eps": 0.1, "seed": 0}
    return AuditedDraws(draws=ScoredDraws(right=left), **usual | changes)


@pytest.mark.parametrize(
    ("audited", "severity"),
    [
        (audit(192), "suspicious"),
        (audit(193), None),
        (audit(179), "broken"),
        (audit(180), "suspicious"),
        (audit(300), None),
        (audit(92, images=100), "broken"),
        (audit(93, images=100), None),
        (audit(192, eps=0.2), None),
        (audit(192, seed=1), None),
        (audit(192, draws=10), None),
        (audit(192, check="another-check"), None),
    ],
)
def test_images_that_both_attacked_are_compared(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows, audited: AuditedDraws, severity: str | None
) -> None:
    """8 images more have the two-sided p-value 2 / 2**8 = 0.0078, and 7 images 0.0156; 5 points of 400 images are 20 images."""
    row = make_row(make_outcomes(clean=[1] * N, robust=[1] * 200 + [0] * 200))
    found = CHECK.finding_in_rows(make_rows(row, audits=[audited]))
    assert (None if found is None else found.severity) == severity


def test_the_worst_case_over_the_attacks_is_compared(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows
) -> None:
    """Two attacks that each break a half of the images break all together."""
    halves = [make_outcomes(clean=[1] * N, robust=[flag] * 200 + [1 - flag] * 200) for flag in (0, 1)]
    rows = [make_row(outcomes, attack=name) for outcomes, name in zip(halves, ("pgd", "cw"), strict=True)]
    found = CHECK.finding_in_rows(make_rows(rows[0], audits=[audit(0)]))
    assert found is not None
    assert found.evidence == (
        "at eps 0.1 PGD with 40 steps in the audit leaves 0.000 of 400 images, and the attacks of the rows leave 0.500"
    )
    assert CHECK.finding_in_rows(make_rows(*rows, audits=[audit(0)])) is None


def test_a_model_keeps_what_its_baseline_left(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """These are the images on which the deployed rule stays right."""
    probe = make_probe(network, images, eps=0.02)
    kept = CHECK.outcomes_for_rows(probe)
    assert kept is not None
    assert kept.accuracy == probe.baseline.summary["robust_accuracy"]
    assert kept.right.shape == (1, 8)
