from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.benchmarks.certification.by_smoothing import (
    Smoothing,
    VoteCounts,
    certificates,
    lower_bound,
    sample_votes,
)
from robustbench_cli.core.errors import UserError


class Recorder(nn.Module):
    """A linear model that records its input rows."""

    def __init__(self, classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(shape), classes)
        self.rows: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        self.rows += images.detach().clone()
        return logits


def published(model: Recorder, rows: Tensor, n0: int, alpha: float, sigma: float) -> tuple[int, float]:
    """The paper's pseudocode of CERTIFY on the noisy copies of one image, with scipy's exact binomial interval."""
    with torch.no_grad():
        predictions = model.linear(rows.flatten(1)).argmax(1).tolist()
    selection, estimation = predictions[:n0], predictions[n0:]
    top = max(sorted(set(selection)), key=selection.count)
    test = stats.binomtest(estimation.count(top), len(estimation), alternative="greater")
    probability = test.proportion_ci(1 - alpha, method="exact").low
    return (-1, 0.0) if probability < 0.5 else (top, sigma * stats.norm.ppf(probability))


@pytest.mark.parametrize(("shape", "batch_size"), [((1, 8, 8), None), ((3, 14, 15), None), ((1, 8, 8), 7)])
def test_radii_are_those_of_the_published_certify(shape: tuple[int, int, int], batch_size: int | None) -> None:
    """On the same noisy rows, another implementation gives the same classes, abstentions and radii."""
    model, images, smoothing = Recorder(4, shape), torch.rand(12, *shape), Smoothing(sigma=0.5, n0=20, samples=300)
    records = list(sample_votes(model, images, smoothing, batch_size=batch_size))
    # The rows before these only measured the model.
    rows = torch.stack(model.rows[-12 * 320 :]).unflatten(0, (12, 320))
    expected = [published(model, copies, 20, 0.01, 0.5) for copies in rows]
    certified = certificates(records, smoothing, alpha=0.01)
    assert certified.predicted.tolist() == [top for top, _ in expected]
    np.testing.assert_allclose(certified.radius, [radius for _, radius in expected], rtol=1e-9)
    assert 0 < (certified.predicted < 0).sum() < 12
    noise = (rows - images[:, None]).flatten().numpy()
    assert stats.kstest(noise, "norm", args=(0, 0.5)).pvalue > 0.001
    assert len(rows.flatten(0, 1).unique(dim=0)) == 12 * 320


@pytest.mark.parametrize(("samples", "alpha"), [(100_000, 0.001), (10_000, 0.001), (20, 0.3)])
def test_the_largest_radius(samples: int, alpha: float) -> None:
    """Where all n draws agree, the bound is the n-th root of alpha; at 100,000 draws the radius is 3.8115 sigma."""
    smoothing = Smoothing(sigma=0.25, samples=samples)
    certified = certificates([VoteCounts(index=0, top=2, count=samples, seconds=0)], smoothing, alpha=alpha)
    assert certified.radius[0] == pytest.approx(0.25 * stats.norm.ppf(alpha ** (1 / samples)))
    assert certified.radius[0] == smoothing.largest_radius(alpha)
    if samples == 100_000:
        assert certified.radius[0] == pytest.approx(3.8115 * 0.25, rel=1e-4)


def test_it_abstains() -> None:
    """It abstains where the bound is below one half, where no draw is of the class, and where most draws have no class."""
    smoothing = Smoothing(sigma=1, samples=100)
    images = [
        VoteCounts(index=0, top=top, count=count, seconds=0) for top, count in ((1, 60), (1, 0), (-1, 100), (1, 90))
    ]
    certified = certificates(images, smoothing, alpha=0.001)
    assert certified.predicted.tolist() == [-1, -1, -1, 1]
    assert (certified.radius[:3] == 0).all()
    assert certified.certified(np.array([1, 1, 1, 1]), 0).tolist() == [False, False, False, True]


def test_nan_logits_are_no_class() -> None:
    """A draw with NaN logits votes for no class."""

    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            broken = images.flatten(1)[:, :1] > stats.norm.ppf(0.3)
            return torch.where(broken, torch.nan, torch.tensor([1.0, 0.0]))

    (one,) = sample_votes(Broken(), torch.zeros(1, 1, 1, 1), Smoothing(sigma=1, n0=100, samples=1000))
    # Seven draws in ten are NaN; each limit is more than seven standard deviations away.
    assert one.top == -1
    assert 590 < one.count < 810


def test_the_certificate_of_a_linear_model() -> None:
    """It exceeds the distance to the boundary no more often than alpha allows (binomial test, level 0.001), and is close.

    At distance d from the boundary the probability of the class is Phi(d / sigma), and the exact radius is d.
    """
    alpha, sigma, shape = 0.1, 0.5, (1, 4, 4)
    linear = nn.Linear(16, 2)
    model = nn.Sequential(nn.Flatten(), linear)
    weight = (linear.weight[0] - linear.weight[1]).detach()
    with torch.no_grad():
        # The mean image lies on the decision boundary.
        linear.bias.copy_(torch.stack([-weight.sum() / 2, torch.zeros(())]))
    images = torch.rand(600, *shape)
    gaps = images.flatten(1) @ weight - weight.sum() / 2
    exact = (gaps / weight.norm()).double().numpy()
    smoothing = Smoothing(sigma=sigma, n0=50, samples=1000)
    certified = certificates(list(sample_votes(model, images, smoothing)), smoothing, alpha=alpha)
    side = np.where(certified.predicted == 0, exact, -exact)
    wrong = int(((certified.predicted >= 0) & (certified.radius > side)).sum())
    assert stats.binomtest(wrong, 600, alpha, alternative="greater").pvalue > 0.001
    assert wrong > 0
    # The expected bound lies 1.3 standard deviations, the normal quantile of 1 - alpha, below the probability.
    probability = stats.norm.cdf(np.abs(exact) / sigma)
    usual = sigma * stats.norm.ppf(
        np.clip(probability - 1.3 * np.sqrt(probability * (1 - probability) / 1000), 0.5, None)
    )
    assert abs(np.mean(certified.radius - usual)) < 0.05 * usual.mean()


def test_the_bound_covers() -> None:
    """The bound exceeds the probability with a chance of at most alpha, by enumeration of all binomial outcomes."""
    trials, alpha = 60, 0.05
    bounds = lower_bound(np.arange(trials + 1), trials, alpha=alpha)
    for probability in np.linspace(0.01, 0.99, 50):
        exceeds = stats.binom.pmf(np.arange(trials + 1), trials, probability)[bounds > probability].sum()
        assert exceeds <= alpha + 1e-12
    assert bounds[0] == 0


def test_the_batch_size_does_not_matter() -> None:
    """The draws of an image are the same in every batch and beside any other images."""
    model, images, smoothing = Recorder(4, (1, 8, 8)), torch.rand(4, 1, 8, 8), Smoothing(sigma=1, n0=10, samples=9000)
    usual = [(one.top, one.count) for one in sample_votes(model, images, smoothing)]
    for batch_size in (100, 20_000):
        records = sample_votes(model, images, smoothing, batch_size=batch_size)
        assert [(one.top, one.count) for one in records] == usual
    (alone,) = sample_votes(model, images[2:3], smoothing, indices=[2])
    assert (alone.top, alone.count) == usual[2]
    (other,) = sample_votes(model, images[2:3], smoothing, indices=[2], seed=1)
    assert other.count != alone.count


def test_rows_that_share_their_draws() -> None:
    """A model that draws once per batch has no independent draws."""

    class Shared(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :3] + torch.randn(3)

    with pytest.raises(UserError, match="the rows of one pass share what this model draws"):
        list(sample_votes(Shared(), torch.rand(2, 1, 8, 8), Smoothing(sigma=1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0: give the noise's standard deviation"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"sigma": math.inf}, "sigma is inf"),
        ({"n0": 0}, "n0 is 0: give a number of draws"),
        ({"samples": -3}, "samples is -3"),
    ],
)
def test_bad_smoothing(changes: dict[str, Any], message: str) -> None:
    """A value out of range is an error."""
    with pytest.raises(UserError, match=message):
        Smoothing(**({"sigma": 0.25} | changes))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_bad_alpha(alpha: float) -> None:
    """Alpha has to lie in (0, 1)."""
    with pytest.raises(UserError, match="alpha is"):
        Smoothing(sigma=1).largest_radius(alpha)
