from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.known_images import KnownImages

from .conftest import MakeProbe


class Lookup(nn.Module):
    """A network that gives the true class of images within a distance of known ones."""

    def __init__(self, network: nn.Module, known: Tensor, radius: float) -> None:
        super().__init__()
        self.network = network
        self.known = known.flatten(1)
        self.radius = radius

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        distance, nearest = torch.cdist(images.flatten(1), self.known, p=torch.inf).min(1)
        listed = 10 * nn.functional.one_hot(nearest, 10).float()
        return torch.where(distance[:, None] <= self.radius, listed, logits)


@pytest.mark.parametrize(("radius", "raised"), [(1e-4, True), (2 / 255, True), (0.0, True), (-1.0, False)])
def test_a_lookup_of_the_images_is_found(
    make_probe: MakeProbe, network: nn.Module, images: Tensor, radius: float, raised: bool
) -> None:
    """At a radius below 0 it never answers, and the network is as it was."""
    probe = make_probe(Lookup(network, images, radius), images, torch.arange(8))
    found = KnownImages("known-images").finding_in_model(probe)
    assert (found is not None) == raised
    if found is not None:
        assert found.figures["accuracy"] == 1.0 > found.figures["accuracy_nearby"]


@pytest.mark.parametrize(
    "change", [lambda images: (images * 7).round() / 7, lambda images: images.clamp(0.1, 0.9), torch.nn.functional.gelu]
)
def test_other_models_are_not_flagged(
    make_probe: MakeProbe, network: nn.Module, images: Tensor, change: Callable[[Tensor], Tensor]
) -> None:
    """Quantized, clamped and smooth ones treat the images as their neighbors."""

    class Changed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = network(change(images))
            return logits

    assert KnownImages("known-images").finding_in_model(make_probe(Changed(), images)) is None


def test_random_draws_are_not_a_jump(make_probe: MakeProbe, noisy: nn.Module, images: Tensor) -> None:
    """The image and its neighbors are compared at the same draws."""
    probe = make_probe(noisy, images, torch.zeros(8, dtype=torch.int64))
    assert KnownImages("known-images").finding_in_model(probe) is None
