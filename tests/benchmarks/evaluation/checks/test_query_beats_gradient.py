from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.query_beats_gradient import QueryBeatsGradient

from ...conftest import MakeOutcomes
from .conftest import MakeProbe, MakeRow, MakeRows

CHECK = QueryBeatsGradient("query-beats-gradient")


@pytest.mark.parametrize(
    ("only_query", "only_gradient", "flagged"),
    [(8, 0, True), (7, 0, False), (30, 10, True), (25, 12, False), (0, 20, False), (0, 0, False)],
)
@pytest.mark.parametrize("access", ["scores", "decisions", "transfer"])
def test_mcnemars_test_decides(
    make_outcomes: MakeOutcomes,
    make_row: MakeRow,
    make_rows: MakeRows,
    access: str,
    only_query: int,
    only_gradient: int,
    flagged: bool,
) -> None:
    """Two-sided binomial tails: 8 to 0 has 0.0078, 7 to 0 has 0.016, 30 to 10 has 0.0022, 25 to 12 has 0.047."""
    rest = [1] * (100 - only_query - only_gradient)
    gradient = make_outcomes(clean=[1] * 100, robust=[1] * only_query + [0] * only_gradient + rest)
    query = make_outcomes(clean=[1] * 100, robust=[0] * only_query + [1] * only_gradient + rest)
    rows = make_rows(make_row(gradient), make_row(query, attack="square", access=access))
    found = CHECK.finding_in_rows(rows)
    assert (found is not None) == flagged
    if found is not None:
        assert found.evidence.startswith("at eps 0.1 square leaves ")
        assert found.figures["robust_accuracy_with"] - found.figures["robust_accuracy_without"] == pytest.approx(
            (only_query - only_gradient) / 100
        )


def test_the_worst_case_over_the_gradient_attacks_counts(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows
) -> None:
    """One of them that is strong is enough."""
    weak = make_outcomes(clean=[1] * 50, robust=[1] * 50)
    strong = make_outcomes(clean=[1] * 50, robust=[1] * 10 + [0] * 40)
    query = make_row(strong, attack="square", access="scores")
    assert CHECK.finding_in_rows(make_rows(make_row(weak), query)) is not None
    assert CHECK.finding_in_rows(make_rows(make_row(weak), make_row(strong, attack="cw"), query)) is None


@pytest.mark.parametrize(("broken", "severity"), [(25, "suspicious"), (26, "broken")])
def test_gradients_that_lose_little_may_lack_only_a_margin_loss(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows, broken: int, severity: str
) -> None:
    """PGD on the cross-entropy left 0.63 of a network trained by TRADES, PGD on the margin 0.57, and Square 0.56."""
    gradient = make_row(make_outcomes(clean=[1] * 100, robust=[1] * 100))
    outcomes = make_outcomes(clean=[1] * 100, robust=[0] * broken + [1] * (100 - broken))
    found = CHECK.finding_in_rows(make_rows(gradient, make_row(outcomes, attack="square", access="scores")))
    assert found is not None
    assert found.severity == severity


def test_many_comparisons_are_corrected(make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows) -> None:
    """Eight to nothing is significant alone, and not as the best of five."""
    gradient = make_outcomes(clean=[1] * 100, robust=[1] * 100)
    query = make_outcomes(clean=[1] * 100, robust=[0] * 8 + [1] * 92)
    queries = [make_row(query, attack="square", access="scores")]
    queries += [make_row(gradient, attack=f"a{number}", access="scores") for number in range(4)]
    assert CHECK.finding_in_rows(make_rows(make_row(gradient), *queries)) is None
    assert CHECK.finding_in_rows(make_rows(make_row(gradient), queries[0])) is not None


@pytest.mark.parametrize(("broken", "flagged"), [(0, False), (2, False), (8, True), (50, True)])
def test_a_cascade_is_judged_by_the_images_that_were_left(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows, broken: int, flagged: bool
) -> None:
    """Of 80 images, Wilson's interval of 2 begins at 0.007, that of 8 at 0.052."""
    first = make_outcomes(clean=[1] * 100, robust=[1] * 80 + [0] * 20)
    last = make_outcomes(clean=[1] * 100, robust=[0] * broken + [1] * (80 - broken) + [0] * 20)
    later: dict[str, Any] = {"attack": "+square", "access": "scores", "cascade": True}
    found = CHECK.finding_in_rows(make_rows(make_row(first), make_row(last, **later)))
    assert (found is not None) == flagged
    if found is not None:
        assert found.figures == {"broken": broken / 80, "left": 80}


def test_without_a_comparison_nothing_is_found(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows
) -> None:
    """One kind of attack alone, an accuracy near zero, other radii, and minimal-norm attacks at any distance."""
    strong = make_outcomes(clean=[1] * 50, robust=[0] * 50)
    weak = make_outcomes(clean=[1] * 50, robust=[1] * 50)
    query: dict[str, Any] = {"attack": "square", "access": "scores"}
    for rows in (
        [make_row(strong, **query)],
        [make_row(weak), make_row(strong, **query)],
        [make_row(weak), make_row(strong, 0.2, **query)],
        [make_row(weak, None), make_row(strong, None, **query)],
        [make_row(weak, access="none"), make_row(strong, **query, cascade=True)],
    ):
        assert CHECK.finding_in_rows(make_rows(*rows)) is None


@pytest.mark.parametrize(("quantized", "found"), [(True, True), (False, False)])
def test_square_in_the_model_finds_what_a_masked_gradient_hides(
    make_probe: MakeProbe, quantized: bool, found: bool
) -> None:
    """A threshold on the mean of the pixels, behind a quantizer without a gradient or behind nothing."""

    class Threshold(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen = (10 * images).round() / 10 + 0 * images if quantized else images
            lead = seen.mean((1, 2, 3)) - 0.5
            return torch.stack([lead, -lead], 1)

    images = 0.5 + 0.15 * torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(60, dtype=torch.int64)
    probe = make_probe(Threshold(), images, labels, eps=0.1 if quantized else 0.07, budget="standard")
    assert probe.baseline.summary["robust_accuracy"] > 0.3
    finding = CHECK.finding_in_model(probe)
    assert (finding is not None) == found
    if finding is not None:
        assert finding.evidence.startswith("Square with 400 queries breaks ")
