from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.at_chance import AtChance
from robustbench_cli.benchmarks.evaluation.checks.few_images import FewImages

from ...conftest import MakeOutcomes
from .conftest import MakeProbe, MakeRow, MakeRows


@pytest.mark.parametrize(
    ("classes", "right", "flagged"), [(2, 59, True), (2, 60, False), (2, 100, False), (1, 100, False)]
)
def test_the_lower_end_of_wilsons_interval_decides(
    make_outcomes: MakeOutcomes, make_row: MakeRow, make_rows: MakeRows, classes: int, right: int, flagged: bool
) -> None:
    """Of 100 images, 59 have the interval [0.492, 0.681] and 60 [0.502, 0.691]; images of one class decide nothing."""
    labels = np.arange(100) % classes
    clean = np.where(np.arange(100) < right, labels, labels + 1)[None]
    outcomes = replace(make_outcomes(clean=[1] * 100, robust=[0] * 100), labels=labels, clean=clean)
    found = AtChance("at-chance").finding_in_rows(make_rows(make_row(outcomes)))
    assert (found is not None) == flagged


def test_an_audit_of_a_model_names_chance_and_few_images(
    network: nn.Module, images: Tensor, make_probe: MakeProbe
) -> None:
    """An untrained network on four images: both; on 40 images of its own classes: neither."""
    few = make_probe(network, images[:4], torch.arange(4))
    many = (
        torch.rand(40, 1, 12, 12, generator=torch.Generator().manual_seed(1))
        * torch.linspace(0, 1, 40)[:, None, None, None]
    )
    own = make_probe(network, many)
    for check in (AtChance("at-chance"), FewImages("few-images")):
        found = check.finding_in_model(few)
        assert found is not None
        assert found.figures["n"] == 4
        assert check.finding_in_model(own) is None
