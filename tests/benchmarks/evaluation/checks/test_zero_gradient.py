from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.zero_gradient import gradient_is_blind
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate


class HiddenPixels(nn.Module):
    """A network that detaches a share of the pixels from the graph."""

    def __init__(self, network: nn.Module, rows: int) -> None:
        super().__init__()
        self.network, self.rows = network, rows

    def forward(self, images: Tensor) -> Tensor:
        hidden = images.clone()
        hidden[:, :, : self.rows] = hidden[:, :, : self.rows].detach()
        logits: Tensor = self.network(hidden)
        return logits


@pytest.mark.parametrize(("rows", "blind"), [(0, False), (4, True), (8, True)])
def test_hidden_pixels_that_matter_are_found(network: nn.Module, images: Tensor, rows: int, blind: bool) -> None:
    """A true gradient has none; a third or two thirds of the image have."""
    assert gradient_is_blind(MeasuredModel(HiddenPixels(network, rows), images), images, 0.1) == blind


def test_pixels_that_do_not_matter_need_no_gradient(network: nn.Module, images: Tensor) -> None:
    """The network does not see them either."""

    class Cropped(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            mask = torch.ones(12, 12)
            mask[:4] = 0
            logits: Tensor = network(images * mask)
            return logits

    assert not gradient_is_blind(MeasuredModel(Cropped(), images), images, 0.1)


@pytest.mark.parametrize("rows", [0, 8])
def test_the_flag_is_in_the_row(network: nn.Module, images: Tensor, rows: int) -> None:
    """Of an attack by gradients on such a model."""
    model = HiddenPixels(network, rows)
    flags = evaluate(model, images, network(images).argmax(1), attack=PGD(steps=20), eps=0.005).flags
    assert ("zero-gradient" in flags) == (rows > 0)
