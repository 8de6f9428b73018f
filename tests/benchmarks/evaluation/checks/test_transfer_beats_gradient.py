from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.transfer_beats_gradient import TransferBeatsGradient

from .conftest import MakeProbe


class Brighter(nn.Module):
    """Tells which half is brighter, with or without a quantizer that has no gradient."""

    def __init__(self, *, quantized: bool) -> None:
        super().__init__()
        self.quantized = quantized

    def forward(self, images: Tensor) -> Tensor:
        seen = (20 * images).round() / 20 + 0 * images if self.quantized else images
        lead = seen[:, 0, :4].mean((1, 2)) - seen[:, 0, 4:].mean((1, 2))
        return torch.stack([lead, -lead], 1)


def halves(count: int) -> tuple[Tensor, Tensor]:
    """Images of which one half is brighter by 0.1, and which one it is."""
    generator = torch.Generator().manual_seed(count)
    images, labels = 0.4 + 0.2 * torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 2
    images[labels == 0, :, :4] += 0.1
    images[labels == 1, :, 4:] += 0.1
    return images, labels


@pytest.mark.parametrize(("quantized", "eps", "found"), [(True, 0.15, True), (False, 0.045, False)])
def test_a_network_of_our_own_shows_what_a_masked_gradient_hides(
    make_probe: MakeProbe, quantized: bool, eps: float, found: bool
) -> None:
    """A quantizer hides the way to the other class, and a true gradient does not: of the images that it leaves, none falls."""
    images, labels = halves(60)
    probe = make_probe(Brighter(quantized=quantized), images, labels, eps=eps, training=lambda: halves(400))
    assert probe.baseline.summary["robust_accuracy"] > 0.2
    finding = TransferBeatsGradient("transfer-beats-gradient").finding_in_model(probe)
    assert (finding is not None) == found
