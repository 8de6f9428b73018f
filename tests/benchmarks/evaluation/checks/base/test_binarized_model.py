from __future__ import annotations

import copy

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.base.binarized_model import (
    BinarizedModel,
    Features,
    fit_readout,
    last_layer,
)


def test_the_readout_is_the_discriminant_of_scikit_learn() -> None:
    """With more points than features. Its shrunk covariance is ours divided by 1.1; the length of the weights differs."""
    generator = torch.Generator().manual_seed(0)
    inner = torch.randn(60, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    boundary = torch.full((8,), 9.0)
    readout = fit_readout(inner, boundary, closeness=0.9)
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1 / 1.1)
    peer.fit(torch.cat([inner, boundary.expand(2, 8)]).double().numpy(), [0] * 60 + [1] * 2)
    cosine = nn.functional.cosine_similarity(readout.weights.double(), torch.from_numpy(peer.coef_[0]), dim=0)
    assert readout.separates
    assert cosine > 1 - 1e-6
    scores = (torch.cat([inner, boundary[None]]) - readout.center) @ readout.weights - readout.threshold
    assert scores[:60].max() < 0 < scores[60]
    assert scores[:60].mean() == pytest.approx(-5, rel=1e-4)


def test_more_features_than_points_are_told_apart_unless_they_are_equal() -> None:
    """Any point outside the affine hull of the others is; one of the inner points is not, nor are constant features."""
    inner = torch.rand(10, 50, generator=torch.Generator().manual_seed(0))
    assert fit_readout(inner, torch.rand(50, generator=torch.Generator().manual_seed(1)), closeness=0.9).separates
    assert not fit_readout(inner, inner.mean(0), closeness=0.9).separates
    assert not fit_readout(torch.ones(10, 50), torch.ones(50), closeness=0.9).separates


def test_the_last_layer_is_the_one_whose_output_is_that_of_the_model(network: nn.Module, images: Tensor) -> None:
    """It is found inside other modules; behind another layer, or with an input without a graph, there is none."""
    assert last_layer(nn.Sequential(network), images) == "0.3"
    assert last_layer(nn.Sequential(network, nn.Tanh()), images) is None

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.network(images.detach()) + 0 * images.sum()
            return logits

    assert last_layer(Cut(), images) is None
    assert last_layer(Cut().requires_grad_(), images) is None
    network.requires_grad_(False)


def test_a_layer_that_not_every_pass_ends_with_is_not_the_last_one(network: nn.Module, images: Tensor) -> None:
    """Nor is one that some rows take only; the generators are as they were."""

    class Switching(nn.Module):
        def __init__(self, *, rows: bool) -> None:
            super().__init__()
            self.networks, self.rows = nn.ModuleList([network, copy.deepcopy(network)]), rows

        def forward(self, images: Tensor) -> Tensor:
            first, second = (chosen(images) for chosen in self.networks)
            drawn = torch.rand((len(images), 1) if self.rows else ()) < 0.5
            return first.where(drawn, 2 * second)

    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert last_layer(Switching(rows=True), images) is None
    assert last_layer(Switching(rows=False), images) is None
    assert torch.equal(torch.get_rng_state(), state)


def test_each_row_has_the_classifier_of_the_nearest_image(network: nn.Module, images: Tensor) -> None:
    """The logits are those of the image's own classifier on the features, in any order of the rows."""
    features = Features(network, "3")
    assert torch.equal(features(images) @ network[3].weight.T + network[3].bias, network(images))
    generator = torch.Generator().manual_seed(0)
    readouts = [fit_readout(torch.rand(5, 800, generator=generator), torch.ones(800), closeness=0.5) for _ in images]
    binarized = BinarizedModel(features, images, "linf", readouts)
    moved = (images + 0.01).flip(0)
    logits = binarized(moved).flip(0)
    for number, readout in enumerate(readouts):
        score = (features(moved.flip(0))[number] - readout.center) @ readout.weights - readout.threshold
        assert logits[number, 1] - logits[number, 0] == pytest.approx(score.item(), rel=1e-3)
