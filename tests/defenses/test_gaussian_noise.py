from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.probes import is_randomized
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.gaussian_noise import GaussianNoise
from robustbench_cli.defenses.hrs import hrs

IMAGES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def identity(count: int) -> nn.Sequential:
    """Convolutions without effect."""
    layers = [nn.Conv2d(3, 3, 1, bias=False, groups=3) for _ in range(count)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("count", "sigma"), [(1, 0.2), (2, (0.2**2 + 0.1**2) ** 0.5)])
def test_noise_is_gaussian(count: int, sigma: float, layout: torch.memory_format) -> None:
    """Identity convolutions add normal noise with the summed variances (Kolmogorov-Smirnov, level 0.001)."""
    images = torch.rand(50, 3, 10, 10).to(memory_format=layout)
    noisy = GaussianNoise(sigma_init=0.2, sigma_inner=0.1).protect(identity(count), images[:1]).eval()
    with torch.no_grad():
        added = (noisy(images) - images).flatten()
    assert stats.kstest(added.numpy(), "norm", args=(0, sigma)).pvalue > 0.001


def test_each_row_and_pass_has_its_own_noise(normed: Callable[[], nn.Module]) -> None:
    """Equal rows and equal batches get different noise, in eval() and in train() mode."""
    images = IMAGES[:1].repeat(2, 1, 1, 1)
    noisy = GaussianNoise().protect(normed(), images[:1])
    for training in (False, True):
        first, second = noisy.train(training)(images), noisy(images)
        assert not torch.allclose(first[0], first[1])
        assert not torch.allclose(first, second)


def test_the_input_is_left_alone(normed: Callable[[], nn.Module]) -> None:
    """No pass changes the caller's images."""
    images = IMAGES.clone()
    GaussianNoise().protect(normed(), images[:1])(images)
    assert torch.equal(images, IMAGES)


def test_without_noise_it_is_the_model(normed: Callable[[], nn.Module]) -> None:
    """With sigma 0 the logits equal the model's exactly."""
    model = normed().eval()
    noisy = GaussianNoise(sigma_init=0, sigma_inner=0).protect(model, IMAGES[:1])
    assert torch.equal(noisy(IMAGES), model(IMAGES))
    assert is_randomized(GaussianNoise(sigma_init=0).protect(model, IMAGES[:1]), IMAGES)


def sigmas(noisy: nn.Module) -> dict[str, float]:
    """The standard deviation of each noise layer, by its name."""
    return {name: module.sigma for name, module in noisy.named_modules() if hasattr(module, "sigma")}


class TwoStems(nn.Module):
    """Two convolutions read the image. A third one, declared before them, reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.join = nn.Conv2d(2, 1, 3)
        self.left = nn.Conv2d(1, 1, 1)
        self.right = nn.Conv2d(1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        joined: Tensor = self.join(torch.cat([self.left(images), self.right(1 - images)], 1))
        return joined.flatten(1)


def test_sigmas_by_location() -> None:
    """Convolutions that read the image have sigma_init, all others sigma_inner, in any order of declaration."""
    defense = GaussianNoise(sigma_init=0.3, sigma_inner=0.2)
    assert sigmas(defense.protect(TwoStems(), IMAGES[:1])) == {"join": 0.2, "left": 0.3, "right": 0.3}
    resnet = sigmas(defense.protect(torchvision.models.resnet18(num_classes=10), torch.rand(1, 3, 32, 32)))
    assert len(resnet) == 20
    assert {name for name, sigma in resnet.items() if sigma == 0.3} == {"conv1"}


LOCATIONS = ("convolutions", "input", "activations", "weights", "output")


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("location", "model", "sigma"),
    [("input", nn.Identity(), 0.3), ("activations", nn.ReLU(), 0.2), ("output", nn.Identity(), 0.2)],
)
def test_noise_by_location(location: str, model: nn.Module, sigma: float, layout: torch.memory_format) -> None:
    """The noise of the image, an activation and the logits is normal with its sigma (Kolmogorov-Smirnov, level 0.001)."""
    images = torch.rand(50, 3, 10, 10).to(memory_format=layout)
    defense = GaussianNoise.from_parameters(
        {"location": location, "sigma_init": 0.3, "sigma_inner": 0.2}, name="gaussian-noise"
    )
    added = (defense.protect(model, images[:1])(images) - images).flatten()
    assert stats.kstest(added.numpy(), "norm", args=(0, sigma)).pvalue > 0.001


@torch.no_grad()
def test_noise_on_weights() -> None:
    """For a unit vector the output is a column of weights with noise relative to the standard deviation of all weights."""
    layer = nn.Linear(5, 4, bias=False)
    noisy = GaussianNoise(location="weights", sigma_inner=0.5).protect(layer, torch.zeros(1, 5)).eval()
    added = (noisy(torch.eye(5)[2].expand(5000, 5)) - layer.weight[:, 2]).flatten()
    assert stats.kstest(added.numpy(), "norm", args=(0, 0.5 * float(layer.weight.std()))).pvalue > 0.001


@pytest.mark.parametrize("location", LOCATIONS)
def test_every_location(normed: Callable[[], nn.Module], location: str) -> None:
    """Rows and passes draw independently. Without noise, and for the deterministic rule, the logits equal the model's."""
    model = normed().eval()
    images = IMAGES[:1].repeat(2, 1, 1, 1)

    def protect(**parameters: object) -> nn.Module:
        defense = GaussianNoise.from_parameters({"location": location, **parameters}, name="gaussian-noise")
        return defense.protect(model, images[:1]).eval()

    noisy = protect()
    first, second = noisy(images), noisy(images)
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first, second)
    for same in (protect(sigma_init=0, sigma_inner=0), protect(decision="deterministic")):
        torch.testing.assert_close(same(images), model(images))


@pytest.mark.parametrize("location", LOCATIONS)
def test_every_location_trains(digits: Any, normed: Callable[[], nn.Module], location: str) -> None:
    """Six epochs bring the mean loss below 2.3, that of guessing among ten classes."""
    train, _ = digits
    defense = GaussianNoise.from_parameters({"location": location}, name="gaussian-noise")
    trainer = Trainer(train, Recipe(epochs=6, lr=0.01), seed=0, device=torch.device("cpu"))
    defense.fit(defense.protect(normed(), train.images[:1]), trainer)
    assert trainer.record["trained"]["training"]["loss"] < 2


def test_noise_around_switching(normed: Callable[[], nn.Module]) -> None:
    """In a switching model the first convolution of every channel has sigma_init, drawn or not."""
    defense = GaussianNoise(sigma_init=0.2, sigma_inner=0.1)
    noisy = defense.protect(hrs(normed(), (1, 8, 8), channels=(6, 2)), IMAGES[:1])
    result = sigmas(noisy)
    assert sum(sigma == 0.2 for sigma in result.values()) == 6
    assert sum(sigma == 0.1 for sigma in result.values()) == 6


def test_bad_models_and_parameters() -> None:
    """A model without convolutions and a negative sigma are usage errors."""
    with pytest.raises(UserError, match="noise before convolutions, and Sequential runs none"):
        GaussianNoise().protect(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), IMAGES[:1])
    with pytest.raises(
        UserError, match=r"gaussian-noise.sigma_init is -0.1: input should be greater than or equal to 0"
    ):
        GaussianNoise.from_parameters({"sigma_init": -0.1}, name="gaussian-noise")


def test_digits_are_learned(digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]) -> None:
    """Trained with noise, one draw has more than 90 % accuracy, more than with noise added after the training."""
    train, test = digits
    defense, recipe, device = GaussianNoise(), Recipe(epochs=20), torch.device("cpu")
    protected = defense.protect(network(), train.images[:1])
    defense.fit(protected, Trainer(train, recipe, seed=0, device=device))
    plain = network()
    Trainer(train, recipe, seed=0, device=device).fit(plain, name="plain")
    assert accuracy(protected, test) > 0.9
    assert accuracy(protected, test) > accuracy(defense.protect(plain, train.images[:1]), test)


def test_the_sigmas_of_the_paper() -> None:
    """The defaults give the sigmas of Wang et al. for MNIST and CIFAR-10, and 0.1 at locations without the pixels' scale."""
    mnist, cifar = (GaussianNoise().for_radius(radius) for radius in (0.3, 8 / 255))
    assert (mnist.sigma_init, mnist.sigma_inner) == pytest.approx((0.2, 0.1))
    assert (cifar.sigma_init, cifar.sigma_inner) == pytest.approx((0.02, 0.01), rel=0.05)
    for location in ("activations", "weights", "output"):
        defense = GaussianNoise.from_parameters({"location": location}, name="gaussian-noise")
        assert defense.for_radius(0.3).sigma_inner == 0.1
    given = GaussianNoise(sigma_init=0, sigma_inner=0.5)
    assert given.for_radius(0.3) == given
