from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.wrong_range import WrongRange

from .conftest import MakeProbe


class Thresholds(nn.Module):
    """Tells eight classes apart by the first pixel; made for images in another range, of which it gets the inverse."""

    def __init__(self, back: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.back = back

    def forward(self, images: Tensor) -> Tensor:
        pixel = self.back(images[:, 0, 0, :1])
        return -(pixel - torch.linspace(0.06, 0.94, 8)).square()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Images of 8 classes, by their first pixel."""
    labels = torch.arange(48) % 8
    images = torch.rand(48, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0] = torch.linspace(0.06, 0.94, 8)[labels]
    return images, labels


@pytest.mark.parametrize(
    ("back", "name"),
    [
        (lambda pixel: pixel / 255, "0 to 255"),
        (lambda pixel: (pixel + 1) / 2, "-1 to 1"),
        (lambda pixel: 255 * pixel, "0 to 1/255"),
        (lambda pixel: 1 - pixel, "inverted images"),
        (lambda pixel: 0.3 * pixel + 0.5, "normalized images"),
    ],
)
def test_a_model_made_for_another_range_is_found(
    make_probe: MakeProbe, data: tuple[Tensor, Tensor], back: Callable[[Tensor], Tensor], name: str
) -> None:
    """Its accuracy there is named."""
    found = WrongRange("wrong-range").finding_in_model(make_probe(Thresholds(back), *data))
    assert found is not None
    assert name in found.evidence or name == "normalized images"


def test_a_model_made_for_this_range_is_not_flagged(make_probe: MakeProbe, data: tuple[Tensor, Tensor]) -> None:
    """Nor is a model that knows nothing, which is as bad in all ranges."""
    assert WrongRange("wrong-range").finding_in_model(make_probe(Thresholds(lambda pixel: pixel), *data)) is None
    images, labels = data
    shuffled = labels[torch.randperm(48, generator=torch.Generator().manual_seed(0))]
    assert WrongRange("wrong-range").finding_in_model(make_probe(Thresholds(torch.cos), images, shuffled)) is None
