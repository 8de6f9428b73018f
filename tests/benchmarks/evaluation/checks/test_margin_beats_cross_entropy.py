from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_cli.benchmarks.evaluation.checks.margin_beats_cross_entropy import MarginBeatsCrossEntropy

from .conftest import MakeProbe


@pytest.mark.parametrize(("scale", "found"), [(1, False), (3000, True)])
def test_a_saturated_cross_entropy_is_found(make_probe: MakeProbe, scale: float, found: bool) -> None:
    """The same linear model with large logits: the cross-entropy underflows, the margin does not."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    weights = scale * torch.ones(16)
    model[1].weight.data, model[1].bias.data = torch.stack([weights, -weights]), scale * torch.tensor([-8.0, 8.0])
    images = 0.5 + 0.2 * torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    probe = make_probe(model, images, torch.zeros(60, dtype=torch.int64), eps=0.1)
    finding = MarginBeatsCrossEntropy("margin-beats-cross-entropy").finding_in_model(probe)
    assert (finding is not None) == found
    if finding is not None:
        assert finding.figures["broken"] > 0.4 * finding.figures["left"]
