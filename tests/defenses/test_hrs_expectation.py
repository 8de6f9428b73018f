from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from robustbench_cli.attacks.base.gradients.eot import EOT, ExactExpectation
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.defenses.hrs import HRSModel, hrs

IMAGES = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.arange(9)


@pytest.fixture
def model(normed: Callable[[], nn.Module]) -> HRSModel:
    """Three blocks of 2, 3 and 2 channels in float64."""
    return hrs(normed(), (1, 8, 8), channels=(2, 3, 2), split=["3", "7"]).double().eval().requires_grad_(False)


def gradient_of_all_paths(model: HRSModel) -> torch.Tensor:
    """The mean over all single paths of the gradient of the cross-entropy."""
    gradients = []
    for choice in itertools.product(*(range(len(block.channels)) for block in model.switching_blocks)):
        leaf = IMAGES.clone().requires_grad_()
        rows = leaf
        for block, channel in zip(model.switching_blocks, choice, strict=True):
            rows = block.channels[channel](rows)
        gradients.append(torch.autograd.grad(F.cross_entropy(rows, LABELS, reduction="sum"), leaf)[0])
    assert len(gradients) == 12
    return torch.stack(gradients).mean(0)


@pytest.mark.parametrize("batch_size", [None, 1, 30])
def test_the_exact_gradient_is_the_mean_over_all_paths(model: HRSModel, batch_size: int | None) -> None:
    """``--eot exact`` gives the mean gradient over all paths up to rounding, with less than one pass per path."""
    source = ExactExpectation(model, batch_size=batch_size)
    _, gradient = source.gradient(IMAGES, LABELS, cross_entropy)
    torch.testing.assert_close(gradient, gradient_of_all_paths(model), rtol=1e-10, atol=1e-14)
    assert source.backwards == pytest.approx(9 * model.cost_of_all_draws)
    assert model.cost_of_all_draws < 12


def test_the_gradient_over_draws_is_unbiased(model: HRSModel) -> None:
    """The mean of 400 gradients over 3 draws equals that over all paths (t-test per pixel, overall level 1e-6)."""
    source = EOT(model, draws=3, randomized=True)
    gradients = torch.stack([source.gradient(IMAGES, LABELS, cross_entropy)[1] for _ in range(400)])
    expected = gradient_of_all_paths(model)
    # Pixels that no path uses have no gradient.
    varying = gradients.std(0) > 0
    torch.testing.assert_close(gradients[0][~varying], expected[~varying], rtol=1e-10, atol=1e-14)
    pvalues = stats.ttest_1samp(gradients[:, varying].numpy(), expected[varying].numpy()).pvalue
    assert pvalues.min() > 1e-6 / IMAGES.numel()


def test_pgd_by_the_exact_gradient_fools_more_paths_than_by_one_draw(model: HRSModel) -> None:
    """After PGD with exact gradients fewer paths keep their label than after PGD with single draws."""
    model.float()
    images = IMAGES.float()
    labels = model.all_draws(images).mean(0).argmax(1)
    left = []
    for eot in (1, "exact"):
        torch.manual_seed(0)
        perturbed = PGD(steps=20)(model, images, labels, eps=0.2, eot=eot)
        left.append((model.all_draws(perturbed).argmax(2) == labels).double().mean().item())
    single, exact = left
    assert exact <= single
    assert exact < (model.all_draws(images).argmax(2) == labels).double().mean().item()
