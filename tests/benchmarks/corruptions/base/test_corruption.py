"""Rounding, chunks, levels and the errors of a user's own corruption."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.corruptions.base import corruption as module
from robustbench_cli.benchmarks.corruptions.base.corruption import Corruption, Levels
from robustbench_cli.benchmarks.corruptions.gaussian_noise import GaussianNoise
from robustbench_cli.benchmarks.corruptions.impulse_noise import ImpulseNoise
from robustbench_cli.benchmarks.corruptions.shot_noise import ShotNoise
from robustbench_cli.core.errors import UserError


class Shift(Corruption):
    """Adds a tenth of the severity."""

    def run(self, images: Tensor, random: Random) -> Tensor:
        return images + self.severity / 10


def test_values_are_clipped_and_rounded_down() -> None:
    """As NumPy's conversion to uint8 does, but 0.1 + 0.2 in levels is no lower level."""
    images = torch.tensor([0.0, 0.5, 0.85, 1.0]).reshape(1, 1, 2, 2)
    assert (Shift(severity=2)(images) * 255).round().flatten().tolist() == [51, 179, 255, 255]


@pytest.mark.parametrize("side", [8, 32, 48, 64, 144, 224])
def test_the_level_follows_the_larger_side(side: int) -> None:
    """Each size has the parameters of the data set whose images are nearest."""
    levels: Levels[str] = {"cifar": "abcde", "tiny-imagenet": "fghij", "imagenet": "klmno"}
    expected = {8: "c", 32: "c", 48: "c", 64: "h", 144: "h", 224: "m"}[side]
    assert Shift(severity=3).level(levels, torch.zeros(1, 1, 2, side)) == expected


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of several chunks are those of one."""
    images = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    at_once = GaussianNoise(severity=5)(images, seed=1)
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", 3 * 3 * 64)
    assert torch.equal(GaussianNoise(severity=5)(images, seed=1), at_once)


@pytest.mark.parametrize(("side", "deviation"), [(32, 0.10), (64, 0.18), (160, 0.38)])
def test_gaussian_noise_has_its_standard_deviation(side: int, deviation: float) -> None:
    """That of the published code at severity 5; of gray images, of which few pixels are clipped, except at 160."""
    images = torch.full((4, 3, side, side), 0.5)
    noise = GaussianNoise(severity=5)(images, seed=2).double() - 0.5
    inside = torch.distributions.Normal(0.0, deviation)
    # The standard deviation of a normal variable that is clipped to [-0.5, 0.5].
    grid = torch.linspace(-8 * deviation, 8 * deviation, 100_001)
    clipped = (inside.log_prob(grid).exp() * grid.clamp(-0.5, 0.5) ** 2).sum() * (grid[1] - grid[0])
    assert noise.std().item() == pytest.approx(clipped.sqrt().item(), rel=0.02)


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (5, 3)])
def test_shot_noise_is_poisson(severity: int, photons: int) -> None:
    """The counts below white have their probabilities at a fifth of the rate of white."""
    images = torch.full((4, 3, 160, 160), 51 / 255)
    # Rounded up again, since a published image is rounded down.
    counts = ((ShotNoise(severity=severity)(images).double() + 1 / 510) * photons).round()
    expected = torch.distributions.Poisson(torch.tensor(photons / 5)).log_prob(torch.arange(photons)).exp()
    for value, probability in enumerate(expected.tolist()):
        assert (counts == value).double().mean().item() == pytest.approx(probability, abs=0.005), value


def test_impulse_noise_has_its_share() -> None:
    """27 % of the values change at severity 5, half of them to white."""
    images = torch.full((4, 3, 160, 160), 0.4)
    changed = ImpulseNoise(severity=5)(images)
    assert (changed == 1).double().mean().item() == pytest.approx(0.135, abs=0.003)
    assert (changed == 0).double().mean().item() == pytest.approx(0.135, abs=0.003)


class Cropped(Corruption):
    """Returns images of another size."""

    def run(self, images: Tensor, random: Random) -> Tensor:
        return images[..., 1:]


class Broken(Corruption):
    """Returns no numbers."""

    def run(self, images: Tensor, random: Random) -> Tensor:
        return images * torch.nan


def test_errors() -> None:
    """Each says what is wrong."""
    images = torch.zeros(1, 1, 4, 4)
    with pytest.raises(
        UserError, match=r"^Cropped returned the shape \(1, 1, 4, 3\) for \(1, 1, 4, 4\): return an image"
    ):
        Cropped(severity=1)(images)
    with pytest.raises(UserError, match=r"^Broken returned NaN"):
        Broken(severity=1)(images)
    with pytest.raises(UserError, match=r"^the images have 4 channels: corruptions are of images with 1 or 3$"):
        Shift(severity=1)(torch.zeros(1, 4, 2, 2))
    with pytest.raises(UserError, match="severity is 6"):
        Shift(severity=6)
