from __future__ import annotations

from itertools import product as combinations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.search.krylov import check_dimension, krylov_step, lanczos, maximum_on_sphere
from robustbench_cli.attacks.base.threat import per_image, steepest_ascent
from robustbench_cli.core.errors import UserError


def quadratics(count: int, numbers: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Gradients ``(N, 1, 1, n)`` and symmetric Hessians ``(N, n, n)`` that are neither convex nor concave."""
    generator = torch.Generator().manual_seed(numbers)
    hessians = torch.randn(count, numbers, numbers, generator=generator, dtype=dtype)
    gradients = torch.randn(count, 1, 1, numbers, generator=generator, dtype=dtype)
    return gradients, hessians + hessians.mT


def step(gradients: Tensor, hessians: Tensor, *, dimension: int, norm: Norm, radius: float) -> Tensor:
    def product(directions: Tensor) -> Tensor:
        return (hessians @ directions.flatten(1).unsqueeze(2)).view_as(directions)

    sizes = torch.full((len(gradients),), radius, dtype=torch.float64)
    return krylov_step(gradients, product, dimension=dimension, norm=norm, sizes=sizes)


def values(gradients: Tensor, hessians: Tensor, moves: Tensor) -> Tensor:
    """``g^T d + d^T H d / 2`` for moves ``(N, ..., n)``."""
    rows = moves.reshape(len(moves), -1, moves.shape[-1])
    linear = (rows * gradients.flatten(1).unsqueeze(1)).sum(2)
    return (linear + ((rows @ hessians) * rows).sum(2) / 2).squeeze(1)


def on_sphere(gradient: np.ndarray, hessian: np.ndarray, radius: float) -> np.ndarray:
    """The exact maximum on the sphere, from the eigendecomposition of the whole Hessian and Brent's root of the length."""
    eigenvalues, vectors = np.linalg.eigh(hessian)
    slopes = vectors.T @ gradient

    def excess(shift: float) -> float:
        return float(np.linalg.norm(slopes / (shift - eigenvalues))) - radius

    low = eigenvalues[-1] + abs(slopes[-1]) / radius / 2
    shift = brentq(excess, low, eigenvalues[-1] + np.linalg.norm(gradient) / radius + 1, xtol=1e-14)
    return np.asarray(vectors @ (slopes / (shift - eigenvalues)))


@pytest.mark.parametrize("radius", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_whole_subspace_solves_the_trust_region_problem(radius: float, dtype: torch.dtype) -> None:
    """It agrees with the eigendecomposition of the whole Hessian to 1e-5, relative to the radius."""
    gradients, hessians = quadratics(20, 8, dtype)
    found = step(gradients, hessians, dimension=8, norm="l2", radius=radius).flatten(1)
    for row in range(20):
        expected = on_sphere(gradients[row].flatten().double().numpy(), hessians[row].double().numpy(), radius)
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=0, atol=1e-5 * radius)


def test_a_larger_subspace_is_no_worse_and_always_at_the_radius() -> None:
    """With a dimension of up to n, the maximum grows, and every step is as long as it may be."""
    gradients, hessians = quadratics(20, 8)
    highest = torch.full((20,), -torch.inf, dtype=torch.float64)
    for dimension in range(1, 9):
        found = step(gradients, hessians, dimension=dimension, norm="l2", radius=0.5)
        torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.full((20,), 0.5, dtype=torch.float64))
        reached = values(gradients, hessians, found)
        assert (reached >= highest - 1e-12).all()
        highest = reached


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_dimension_is_the_fast_gradient_method(norm: Norm) -> None:
    """Whatever the curvature."""
    gradients, hessians = quadratics(20, 8)
    found = step(gradients, hessians, dimension=1, norm=norm, radius=0.3)
    torch.testing.assert_close(found, 0.3 * steepest_ascent(gradients, norm))


def test_corners_beside_all_corners() -> None:
    """In linf, the steps reach most of the best corner's value, which enumeration finds, and more than the sign of the gradient."""
    gradients, hessians = quadratics(200, 8)
    every = 0.5 * torch.tensor([*combinations((-1.0, 1.0), repeat=8)], dtype=torch.float64)
    best = values(gradients, hessians, every.expand(200, -1, -1)).amax(1)
    found = values(gradients, hessians, step(gradients, hessians, dimension=8, norm="linf", radius=0.5))
    signs = values(gradients, hessians, 0.5 * gradients.sign())
    assert (found <= best + 1e-12).all()
    assert (found / best).mean() > 0.9 > (signs / best).mean()


def test_the_hard_case() -> None:
    """Without a slope along the top eigenvector, the rest of the length goes along it: Conn, Gould, Toint, section 7.3.1."""
    matrices = torch.tensor([[[0.0, 0.0], [0.0, 5.0]]], dtype=torch.float64)
    one, radius = torch.ones(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64)
    expected = torch.tensor([[0.2, (4 - 0.04) ** 0.5]], dtype=torch.float64)
    torch.testing.assert_close(maximum_on_sphere(matrices, one, radius).abs(), expected)


def test_the_basis_spans_the_powers_of_the_hessian() -> None:
    """It is orthonormal, spans ``g, H g, H^2 g, H^3 g`` like their QR decomposition, and T is the Hessian in it."""
    gradients, hessians = quadratics(5, 8)
    start = steepest_ascent(gradients, "l2")
    basis, matrices = lanczos(start, lambda d: (hessians @ d.flatten(1).unsqueeze(2)).view_as(d), 4)
    powers = [start.flatten(1).unsqueeze(2)]
    for _ in range(3):
        powers.append(hessians @ powers[-1])
    expected = torch.linalg.qr(torch.cat(powers, 2)).Q
    torch.testing.assert_close(basis @ basis.mT, torch.eye(4, dtype=torch.float64).expand(5, 4, 4))
    torch.testing.assert_close(basis.mT @ basis, expected @ expected.mT)
    torch.testing.assert_close(basis @ hessians @ basis.mT, matrices)


@pytest.mark.parametrize("curvature", [-3.0, 0.0, 3.0])
def test_a_complete_subspace_ends_early(curvature: float) -> None:
    """Where the Hessian keeps the gradient's line, more dimensions add nothing, in float32 too; without a gradient is no step."""
    gradients, _ = quadratics(20, 8, torch.float32)
    gradients[0] = 0
    unit = steepest_ascent(gradients, "l2").flatten(1)
    hessians = curvature * unit.unsqueeze(2) * unit.unsqueeze(1)
    found = step(gradients, hessians, dimension=5, norm="l2", radius=0.3)
    torch.testing.assert_close(found, 0.3 * steepest_ascent(gradients, "l2"))
    assert (found[0] == 0).all()


def test_the_scale_of_a_loss_does_not_matter() -> None:
    """A confident network's gradients are tiny, and their squares underflow in float32."""
    gradients, hessians = quadratics(20, 8, torch.float32)
    expected = step(gradients, hessians, dimension=4, norm="l2", radius=0.3)
    found = step(1e-30 * gradients, 1e-30 * hessians, dimension=4, norm="l2", radius=0.3)
    torch.testing.assert_close(found, expected)
    steep = step(1e-37 * gradients, hessians, dimension=4, norm="l2", radius=0.3)
    torch.testing.assert_close(steep.flatten(1).norm(dim=1), torch.full((20,), 0.3))
    sizes = torch.zeros(20)
    nothing = krylov_step(gradients, lambda d: d, dimension=2, norm="l2", sizes=sizes)
    torch.testing.assert_close(nothing, per_image(sizes, gradients).expand_as(gradients))


def test_a_dimension_above_the_images() -> None:
    """It is an error in one line, which names the largest."""
    images = torch.zeros(1, 3, 2, 2)
    check_dimension(12, images)
    with pytest.raises(UserError, match=r"^dimension is 13: an image has 12 numbers.*give at most 12$"):
        check_dimension(13, images)
