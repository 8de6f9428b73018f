from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.probes import is_randomized
from robustbench_cli.benchmarks.evaluation.checks.wrong_gradient import gradient_is_wrong
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.total_variation import TotalVariation, _fill_in, _iterates, _Solution


def recorded(images: Tensor, **parameters: float) -> Tensor:
    """The input of a model behind the defense."""
    result: Tensor = TotalVariation(**parameters).protect(nn.Identity(), images[:1])(images)  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize(("left", "right"), [(4, 8), (1, 3)])
@pytest.mark.parametrize("along", [2, 3])
def test_a_step_edge(along: int, left: int, right: int) -> None:
    """Both sides of a step edge move by tv_weight / (2 * width) towards each other, per channel (closed form)."""
    values = torch.cat([torch.full((left,), 0.2), torch.full((right,), 0.9)])
    images = values.expand(2, 3, 5, -1)
    expected = values + 0.06 / 2 * torch.cat([torch.full((left,), 1 / left), torch.full((right,), -1 / right)])
    smooth = recorded(images.transpose(along, 3), drop_rate=0, tv_weight=0.06, steps=800).transpose(along, 3)
    assert torch.allclose(smooth, expected.expand_as(smooth), atol=2e-4)


def test_much_weight_leaves_the_mean() -> None:
    """With a large weight each channel becomes its mean."""
    images = torch.rand(3, 2, 4, 4)
    smooth = recorded(images, drop_rate=0, tv_weight=3.0, steps=3000)
    assert torch.allclose(smooth, images.mean((2, 3), keepdim=True).expand_as(smooth), atol=1e-3)


def test_the_minimum_is_scipys() -> None:
    """For the same dropped pixels, the objective is within 1 % of that of scipy's L-BFGS."""
    weight, image = 0.1, torch.rand(1, 1, 6, 6, dtype=torch.float64)
    torch.manual_seed(1)
    kept = (torch.rand(1, 1, 6, 6, dtype=torch.float64) >= 0.5).numpy()[0, 0]
    torch.manual_seed(1)
    smooth = recorded(image, tv_weight=weight).numpy()[0, 0]
    given = image.numpy()[0, 0]

    def objective(flat: NDArray[np.float64]) -> float:
        pixels = flat.reshape(6, 6)
        below, right = np.diff(pixels, axis=0, append=pixels[-1:]), np.diff(pixels, axis=1, append=pixels[:, -1:])
        return float((kept * (pixels - given) ** 2).sum() + weight * np.sqrt(below**2 + right**2 + 1e-12).sum())

    found = optimize.minimize(objective, np.full(36, given.mean()), method="L-BFGS-B", options={"maxfun": 40000})
    assert 0.99 * objective(smooth.ravel()) < found.fun < objective(given.ravel())


def test_the_number_of_dropped_pixels() -> None:
    """Outlier pixels stay near their value if and only if they are not dropped (binomial test, level 0.001)."""
    images = torch.zeros(200, 1, 9, 9)
    images[:, :, 4, 4] = 1
    kept = int((recorded(images, drop_rate=0.3, tv_weight=1e-3)[:, 0, 4, 4] > 0.5).sum())
    assert stats.binomtest(kept, 200, 0.7).pvalue > 0.001


def test_without_draws_no_pixel_is_dropped() -> None:
    """The deterministic counterpart is the defense with a drop rate of 0."""
    images = torch.rand(4, 1, 8, 8)
    assert is_randomized(TotalVariation().protect(nn.Flatten(), images[:1]), images)
    deterministic = TotalVariation(decision="deterministic").protect(nn.Flatten(), images[:1])
    assert not is_randomized(deterministic, images)
    assert torch.equal(deterministic(images), recorded(images, drop_rate=0).flatten(1))


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_the_gradient_by_hand_is_that_of_autograd(steps: int) -> None:
    """Of the same iterates, followed operation by operation, in float64 and with images that are no squares."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 7, 9, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.randn(images.shape, dtype=torch.float64, generator=generator)
    mask = torch.rand(images.shape, generator=generator) >= 0.5
    start = _fill_in(images, mask)
    smooth, *_ = list(islice(_iterates(images, start, mask, 0.03), steps))[-1]
    (expected,) = torch.autograd.grad((smooth * weights).sum(), images, retain_graph=True)
    by_hand = _Solution.apply(images, start, mask, 0.03, steps)[0]
    assert torch.equal(by_hand, smooth)
    (gradient,) = torch.autograd.grad((by_hand * weights).sum(), images)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_the_gradient_is_true() -> None:
    """It equals central differences in float64 for fixed draws, also for flat images."""
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    images[0, 0, :4] = 0
    weights, direction = torch.randn_like(images), torch.randn_like(images)

    def value(at: Tensor) -> Tensor:
        torch.manual_seed(0)
        return (recorded(at, tv_weight=0.1) * weights).sum()

    (gradient,) = torch.autograd.grad(value(images.requires_grad_()), images)
    difference = (value(images + 1e-7 * direction) - value(images - 1e-7 * direction)) / 2e-7
    assert gradient.isfinite().all()
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-4)


def test_no_flag_is_raised(network: type[nn.Module]) -> None:
    """The checks find no fault in the gradient of a network behind it."""
    images = torch.rand(8, 1, 8, 8)
    defended = TotalVariation().protect(network(), images[:1]).eval()
    assert not gradient_is_wrong(MeasuredModel(defended, images), images)


@pytest.mark.parametrize(("name", "value"), [("drop_rate", 1), ("drop_rate", -0.1), ("tv_weight", 0), ("steps", 0)])
def test_bad_parameters_are_refused(name: str, value: float) -> None:
    """A value out of range is a usage error that names the parameter."""
    with pytest.raises(UserError, match=f"total-variation.{name} is {value}: "):
        TotalVariation.from_parameters({name: value}, name="total-variation")
