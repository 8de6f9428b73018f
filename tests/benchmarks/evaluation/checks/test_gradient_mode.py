from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.gradient_mode import GradientMode

from .conftest import MakeProbe


class Watching(nn.Module):
    """A network that is another one while gradients are recorded."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits.flip(1) if images.requires_grad else logits


def test_a_model_that_watches_for_gradients_is_found(make_probe: MakeProbe, network: nn.Module, images: Tensor) -> None:
    """All of its logits change."""
    found = GradientMode("gradient-mode").finding_in_model(make_probe(Watching(network), images))
    assert found is not None
    assert found.figures == {"changed": 8}


@pytest.mark.parametrize("kind", ["network", "noisy"])
def test_honest_models_are_the_same(
    make_probe: MakeProbe, images: Tensor, request: pytest.FixtureRequest, kind: str
) -> None:
    """Also one with random draws, which are the same in both passes."""
    probe = make_probe(request.getfixturevalue(kind), images, torch.zeros(8, dtype=torch.int64))
    assert GradientMode("gradient-mode").finding_in_model(probe) is None


def test_attention_is_the_same(make_probe: MakeProbe) -> None:
    """Torch computes an encoder layer by other kernels where no gradient is recorded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        model = nn.Sequential(
            nn.Flatten(2), nn.Unflatten(1, (4, 1)), nn.Flatten(2), layer, nn.Flatten(), nn.Linear(64, 5)
        )
        images = torch.rand(8, 4, 4, 4)
    assert GradientMode("gradient-mode").finding_in_model(make_probe(model.eval(), images)) is None
