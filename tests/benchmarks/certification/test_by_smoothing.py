from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.benchmarks.certification.by_smoothing import Sampled, Smoothing, certificates, lower_bound, sampled
from robustbench_cli.core.errors import UserError


class Watched(nn.Module):
    """A linear model with noise of its own kind in its memory: it keeps all rows that it is asked."""

    def __init__(self, classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(shape), classes)
        self.rows: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        self.rows += images.detach().clone()
        return logits


def published(model: Watched, rows: Tensor, n0: int, alpha: float, sigma: float) -> tuple[int, float]:
    """CERTIFY as the paper's pseudocode has it, on the noisy images of one image, by scipy's exact binomial interval."""
    with torch.no_grad():
        answers = model.linear(rows.flatten(1)).argmax(1).tolist()
    selection, estimation = answers[:n0], answers[n0:]
    chosen = max(sorted(set(selection)), key=selection.count)
    test = stats.binomtest(estimation.count(chosen), len(estimation), alternative="greater")
    least = test.proportion_ci(1 - alpha, method="exact").low
    return (-1, 0.0) if least < 0.5 else (chosen, sigma * stats.norm.ppf(least))


@pytest.mark.parametrize(("shape", "batch_size"), [((1, 8, 8), None), ((3, 14, 15), None), ((1, 8, 8), 7)])
def test_radii_are_those_of_the_published_certify(shape: tuple[int, int, int], batch_size: int | None) -> None:
    """On the very noise that the model saw, another implementation finds the same classes, abstentions and radii."""
    model, images, smoothing = Watched(4, shape), torch.rand(12, *shape), Smoothing(sigma=0.5, n0=20, samples=300)
    found = list(sampled(model, images, smoothing, batch_size=batch_size))
    # What was asked before the first image only measured the model.
    rows = torch.stack(model.rows[-12 * 320 :]).unflatten(0, (12, 320))
    expected = [published(model, each, 20, 0.01, 0.5) for each in rows]
    each = certificates(found, smoothing, alpha=0.01)
    assert each.predicted.tolist() == [top for top, _ in expected]
    np.testing.assert_allclose(each.radius, [radius for _, radius in expected], rtol=1e-9)
    assert 0 < (each.predicted < 0).sum() < 12
    noise = (rows - images[:, None]).flatten().numpy()
    assert stats.kstest(noise, "norm", args=(0, 0.5)).pvalue > 0.001
    assert len(rows.flatten(0, 1).unique(dim=0)) == 12 * 320


@pytest.mark.parametrize(("samples", "alpha"), [(100_000, 0.001), (10_000, 0.001), (20, 0.3)])
def test_the_largest_radius(samples: int, alpha: float) -> None:
    """Where all draws are of one class, the bound is the root of alpha; at 100,000 draws the radius is 3.8115 sigma."""
    smoothing = Smoothing(sigma=0.25, samples=samples)
    each = certificates([Sampled(place=0, top=2, count=samples, seconds=0)], smoothing, alpha=alpha)
    assert each.radius[0] == pytest.approx(0.25 * stats.norm.ppf(alpha ** (1 / samples)))
    assert each.radius[0] == smoothing.largest_radius(alpha)
    if samples == 100_000:
        assert each.radius[0] == pytest.approx(3.8115 * 0.25, rel=1e-4)


def test_it_abstains() -> None:
    """Where half of the draws are not sure to be of the class, where none is, and where most draws gave no class."""
    smoothing = Smoothing(sigma=1, samples=100)
    images = [Sampled(place=0, top=top, count=count, seconds=0) for top, count in ((1, 60), (1, 0), (-1, 100), (1, 90))]
    each = certificates(images, smoothing, alpha=0.001)
    assert each.predicted.tolist() == [-1, -1, -1, 1]
    assert (each.radius[:3] == 0).all()
    assert each.certified(np.array([1, 1, 1, 1]), 0).tolist() == [False, False, False, True]


def test_what_is_no_number_is_no_class() -> None:
    """Draws whose logits are NaN count for no class."""

    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            broken = images.flatten(1)[:, :1] > stats.norm.ppf(0.3)
            return torch.where(broken, torch.nan, torch.tensor([1.0, 0.0]))

    (one,) = sampled(Broken(), torch.zeros(1, 1, 1, 1), Smoothing(sigma=1, n0=100, samples=1000))
    # Seven draws in ten; each bound is more than seven standard deviations away.
    assert one.top == -1
    assert 590 < one.count < 810


def test_the_certificate_of_a_linear_model() -> None:
    """It exceeds the distance to the plane no more often than alpha allows (binomial test, level 0.001), and is near it.

    A plane at distance d is where the vote changes: the probability of the class is Phi(d / sigma), and the radius d is
    exact.
    """
    alpha, sigma, shape = 0.1, 0.5, (1, 4, 4)
    linear = nn.Linear(16, 2)
    model = nn.Sequential(nn.Flatten(), linear)
    weight = (linear.weight[0] - linear.weight[1]).detach()
    with torch.no_grad():
        # The middle of the images lies on the plane.
        linear.bias.copy_(torch.stack([-weight.sum() / 2, torch.zeros(())]))
    images = torch.rand(600, *shape)
    gaps = images.flatten(1) @ weight - weight.sum() / 2
    exact = (gaps / weight.norm()).double().numpy()
    smoothing = Smoothing(sigma=sigma, n0=50, samples=1000)
    each = certificates(list(sampled(model, images, smoothing)), smoothing, alpha=alpha)
    side = np.where(each.predicted == 0, exact, -exact)
    wrong = int(((each.predicted >= 0) & (each.radius > side)).sum())
    assert stats.binomtest(wrong, 600, alpha, alternative="greater").pvalue > 0.001
    assert wrong > 0
    # What the bound gives on the whole: 1.3 standard deviations, the normal quantile of 1 - alpha, below the
    # probability.
    probability = stats.norm.cdf(np.abs(exact) / sigma)
    usual = sigma * stats.norm.ppf(
        np.clip(probability - 1.3 * np.sqrt(probability * (1 - probability) / 1000), 0.5, None)
    )
    assert abs(np.mean(each.radius - usual)) < 0.05 * usual.mean()


def test_the_bound_covers() -> None:
    """Over binomial draws, the bound is above the probability with a chance of alpha at most, by enumeration."""
    trials, alpha = 60, 0.05
    bounds = lower_bound(np.arange(trials + 1), trials, alpha=alpha)
    for probability in np.linspace(0.01, 0.99, 50):
        exceeds = stats.binom.pmf(np.arange(trials + 1), trials, probability)[bounds > probability].sum()
        assert exceeds <= alpha + 1e-12
    assert bounds[0] == 0


def test_the_batch_size_does_not_matter() -> None:
    """The draws of an image are its own: the same in every batch, and beside whatever others."""
    model, images, smoothing = Watched(4, (1, 8, 8)), torch.rand(4, 1, 8, 8), Smoothing(sigma=1, n0=10, samples=9000)
    usual = [(one.top, one.count) for one in sampled(model, images, smoothing)]
    for batch_size in (100, 20_000):
        again = sampled(model, images, smoothing, batch_size=batch_size)
        assert [(one.top, one.count) for one in again] == usual
    (alone,) = sampled(model, images[2:3], smoothing, places=[2])
    assert (alone.top, alone.count) == usual[2]
    (other,) = sampled(model, images[2:3], smoothing, places=[2], seed=1)
    assert other.count != alone.count


def test_rows_that_share_their_draws() -> None:
    """A model that draws once for a whole batch gives no independent draws."""

    class Shared(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :3] + torch.randn(3)

    with pytest.raises(UserError, match="the rows of one pass share what this model draws"):
        list(sampled(Shared(), torch.rand(2, 1, 8, 8), Smoothing(sigma=1)))


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
    """What cannot be sampled is refused."""
    with pytest.raises(UserError, match=message):
        Smoothing(**({"sigma": 0.25} | changes))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_bad_alpha(alpha: float) -> None:
    """A chance that is none, or certain, bounds nothing."""
    with pytest.raises(UserError, match="alpha is"):
        Smoothing(sigma=1).largest_radius(alpha)
