from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm, spearmanr
from sklearn.neighbors import KernelDensity
from torch import nn
from torch.nn import functional

from robustbench_cli.attacks.fmn import FMN
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.base.training.gradients import smoothing_labels
from robustbench_cli.defenses.infoat import InfoAT, pointwise_information
from robustbench_cli.defenses.none import Undefended
from robustbench_cli.defenses.pgd_at import PGDAT


def test_the_information_is_that_of_a_kernel_density() -> None:
    """It is minus the logarithm of scikit-learn's density of the noisy latents, without the constant of the normal density."""
    latents = 5 * torch.randn(40, 3) + 100
    distances = np.linalg.norm(latents.numpy()[:, None] - latents.numpy()[None], axis=2)
    deviation = 0.2 * np.sqrt((distances**2).mean())
    density = KernelDensity(bandwidth=deviation).fit(latents.numpy()).score_samples(latents.numpy())
    expected = -density - 1.5 * np.log(2 * np.pi * deviation**2)
    torch.testing.assert_close(
        pointwise_information(latents, 0.2).double(), torch.from_numpy(expected), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(("noise", "gap"), [(0.005, 1e-3), (0.05, 0.1), (1.0, 0.2)])
def test_the_mean_bounds_the_mutual_information(noise: float, gap: float) -> None:
    """In one dimension the entropy of the noisy latents is an integral. The bound is tight where the noise is small."""
    latents = np.array([0.0, 0.1, 1.0, 3.0])
    deviation = noise * np.sqrt(((latents[:, None] - latents) ** 2).mean())

    def density_times_log(value: float) -> float:
        density = norm.pdf(value, latents, deviation).mean()
        return float(-density * np.log(density)) if density else 0.0

    entropy = quad(density_times_log, -10, 13, limit=500, points=latents)[0]
    exact = entropy - norm(scale=deviation).entropy()
    bound = pointwise_information(torch.from_numpy(latents)[:, None], noise).mean().item()
    assert exact - 1e-4 <= bound <= exact + gap


def test_equal_and_distant_latents() -> None:
    """Equal latents have no information, and distant ones that of the image's number, also in half precision."""
    assert not pointwise_information(torch.ones(8, 4), 0.1).any()
    torch.testing.assert_close(
        pointwise_information(torch.eye(8).bfloat16(), 0.01), torch.full((8,), np.log(8)).float()
    )


@pytest.mark.parametrize("mixed", [False, True])
def test_the_loss_is_weighted_by_the_information(network: Callable[[], nn.Module], mixed: bool) -> None:
    """Image by image, with smooth labels; no gradient passes through the weights."""
    model, images, labels = network(), torch.rand(20, 1, 8, 8), torch.randint(10, (20,))
    perturbed = torch.rand(20, 1, 8, 8)
    targets = functional.one_hot(labels, 10).float()
    with smoothing_labels(0.1):
        value = InfoAT(strength=0.7, noise=0.5).batch_loss(model, images, perturbed, targets if mixed else labels)
    factors = pointwise_information(model(images), 0.5).exp().detach() ** 0.7
    factors = factors / factors.mean()
    assert factors.std() > 0.1
    losses = -((0.9 * targets + 0.01) * model(perturbed).log_softmax(1)).sum(1)
    expected = (factors * losses).mean()
    torch.testing.assert_close(value, expected)
    for ours, theirs in zip(
        *(torch.autograd.grad(loss, list(model.parameters())) for loss in (value, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_without_strength_it_is_pgd_at(network: Callable[[], nn.Module]) -> None:
    """With the same draws, up to rounding."""
    model, images, labels = network(), torch.rand(20, 1, 8, 8), torch.randint(10, (20,))
    values = []
    for defense in (InfoAT(strength=0), PGDAT()):
        torch.manual_seed(1)
        values.append(defense.loss(model, images, labels))
    torch.testing.assert_close(*values)


def test_the_observation_of_the_paper_depends_on_the_noise(digits: Any, network: Callable[[], nn.Module]) -> None:
    """Images of high information are easier to attack where the noise is small, and harder where it is large."""
    train, test = digits
    images, labels = test.images[:128], test.labels[:128]
    model = defend(network(), Undefended(), (train.images[:400], train.labels[:400]), epochs=4, lr=0.01, batch_size=64)
    perturbed = FMN(steps=10)(model, images, labels, norm="linf", eps=1)
    with torch.no_grad():
        logits = model(images)
    distances = (perturbed - images).abs().amax((1, 2, 3)) * (logits.argmax(1) == labels)
    correlations = [spearmanr(pointwise_information(logits, noise), distances).statistic for noise in (0.1, 0.7)]
    assert correlations[0] < -0.2
    assert correlations[1] > 0.2


def test_bad_parameters() -> None:
    """A negative strength, and no noise, for which the information is infinite."""
    for key, value in (("strength", -1), ("noise", 0)):
        with pytest.raises(UserError, match=rf"^infoat.{key} is {value}: input should be"):
            InfoAT.from_parameters({key: value}, name="infoat")
