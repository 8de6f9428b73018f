"""Steps that maximize the quadratic model of a loss inside a Krylov subspace: Lanczos, and a trust region."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import per_image, scale_by_largest
from robustbench_cli.core.errors import UserError

__all__ = ["HessianProduct", "check_dimension", "krylov_step", "lanczos", "maximum_on_sphere"]

HessianProduct = Callable[[Tensor], Tensor]
"""Maps directions ``(N, C, H, W)`` to the products of each image's Hessian with its direction."""

_INVARIANT = 1e-5
"""The share of a product that is new to the subspace, below which it is rounding error and the subspace is complete."""

_NEWTON_STEPS = 15
"""A relative error of 1e-7 where the numbers of a problem span twelve orders of magnitude; a typical problem needs six."""

_HARD_CASE = 1e-12
"""The smallest slope along the top eigenvector, relative to the gradient."""

_STEEPEST = 1e15
"""The largest entry of a product, relative to the gradient: there the gradient no longer matters, and squares fit float32."""


def check_dimension(dimension: int, images: Tensor) -> None:
    """Checks that images have enough numbers for a Krylov subspace.

    Args:
        dimension: That of the subspace.
        images: ``(N, C, H, W)``.

    Raises:
        UserError: The dimension is larger than an image.
    """
    numbers = images[0].numel()
    if dimension > numbers:
        raise UserError(
            f"dimension is {dimension}: an image has {numbers} numbers, and no subspace is larger; give at most {numbers}"
        )


def krylov_step(gradient: Tensor, product: HessianProduct, *, dimension: int, norm: Norm, sizes: Tensor) -> Tensor:
    """The step of a given length that maximizes ``gradient^T d + d^T H d / 2`` inside a Krylov subspace.

    In linf, the corners of the cube lie on the sphere of radius ``size sqrt(n)``, for n numbers in an image. The step leads to
    the corner nearest to the maximum on that sphere. With one dimension this is the step of the fast gradient sign method, and
    in l2 that along the normalized gradient.

    Args:
        gradient: ``(N, C, H, W)``.
        product: Multiplies directions by the Hessian H.
        dimension: m >= 1, of the subspace spanned by ``g, H g, ..., H^(m-1) g``.
        norm: ``linf`` or ``l2``.
        sizes: ``(N,)``, the norm of each step.

    Returns:
        ``(N, C, H, W)``; zero where the gradient is zero.
    """
    # Only the ratio of the gradient and the Hessian matters. Squares of tiny gradients would underflow.
    largest = gradient.flatten(1).abs().amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    scaled = scale_by_largest(gradient)
    length = torch.linalg.vector_norm(scaled.flatten(1), dim=1).clamp_min(1)

    def scaled_product(directions: Tensor) -> Tensor:
        return (product(directions) / per_image(largest, directions)).clamp(-_STEEPEST, _STEEPEST)

    basis, projected = lanczos(scaled / per_image(length, scaled), scaled_product, dimension)
    radius = sizes.double() * (gradient[0].numel() ** 0.5 if norm == "linf" else 1)
    weights = maximum_on_sphere(projected, length.double(), radius).to(basis.dtype)
    step = (basis * weights.unsqueeze(2)).sum(1).view_as(gradient)
    return step.sign() * per_image(sizes, step).to(step.dtype) if norm == "linf" else step


def lanczos(start: Tensor, product: HessianProduct, dimension: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of a Krylov subspace, and the Hessian in it.

    Each new vector is orthogonalized against all earlier ones, twice, so that rounding does not bring them back.

    Source: Golub, Van Loan: Matrix Computations. 4th edition, sections 10.1 and 10.3.

    Args:
        start: ``(N, C, H, W)`` of length 1, or zero.
        product: Multiplies directions by the Hessian H.
        dimension: m >= 1.

    Returns:
        The basis ``(N, m, n)``, and the tridiagonal matrices ``basis H basis^T`` ``(N, m, m)`` in float64. If a subspace is
        complete with fewer vectors, the others are zero, with a diagonal entry below all eigenvalues.
    """
    basis = start.flatten(1).unsqueeze(1)
    diagonal, coupling = [], []
    for _ in range(dimension):
        image = product(basis[:, -1].view_as(start)).flatten(1)
        size = torch.linalg.vector_norm(image, dim=1)
        image, first = _without(image, basis)
        image, second = _without(image, basis)
        diagonal.append((first + second)[:, -1].double())
        rest = torch.linalg.vector_norm(image, dim=1)
        rest = torch.where(rest > _INVARIANT * size, rest, 0)
        coupling.append(rest.double())
        vector = torch.where(rest.unsqueeze(1) > 0, image / rest.unsqueeze(1), 0)
        basis = torch.cat([basis, vector.unsqueeze(1)], 1)
    diagonals, couplings = torch.stack(diagonal, 1), torch.stack(coupling, 1)[:, :-1]
    below = -(diagonals.abs() + 2 * functional.pad(couplings, (0, 1))).sum(1, keepdim=True) - 1
    exists = functional.pad(couplings.cumprod(1) > 0, (1, 0), value=True)
    matrices = torch.diag_embed(torch.where(exists, diagonals, below))
    matrices = matrices + torch.diag_embed(couplings, 1) + torch.diag_embed(couplings, -1)
    return basis[:, :-1], matrices


def _without(vectors: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors ``(N, n)`` without their part in a basis ``(N, m, n)``, and the coordinates ``(N, m)`` of that part.

    Sums in place of matrix products: an image's result must not depend on its batch.
    """
    coordinates = (basis * vectors.unsqueeze(1)).sum(2)
    return vectors - (basis * coordinates.unsqueeze(2)).sum(1), coordinates


def maximum_on_sphere(matrices: Tensor, slope: Tensor, radius: Tensor) -> Tensor:
    """The maximum of ``slope z_1 + z^T T z / 2`` on the sphere ``|z| = radius``: a trust-region problem.

    With the eigenvectors U and eigenvalues of T, the maximum is ``z = (mu I - T)^-1 (slope, 0, ...)`` for the one mu above all
    eigenvalues at which z is as long as the radius. Newton's method on ``1 / |z|`` finds it, from below. An attack uses its
    whole radius, so the maximum is sought on the sphere also where the function is larger inside.

    Source: Conn, Gould, Toint: Trust-Region Methods. SIAM 2000, sections 7.3.1 to 7.3.3.

    Args:
        matrices: T, ``(N, m, m)`` float64, symmetric.
        slope: ``(N,)`` float64, > 0.
        radius: ``(N,)`` float64, >= 0.

    Returns:
        z, ``(N, m)``.

    >>> T = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    >>> maximum_on_sphere(T, torch.ones(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64))
    tensor([[2., 0.]], dtype=torch.float64)
    """
    values, vectors = torch.linalg.eigh(matrices)
    gaps = values[:, -1:] - values
    slope, radius = slope.unsqueeze(1), radius.unsqueeze(1).clamp_min(torch.finfo(torch.float32).tiny)
    slopes = vectors[:, 0] * slope
    # The hard case: without a slope along the top eigenvector, either direction along it is as good.
    smallest = _HARD_CASE * slope.expand_as(slopes).clone()
    smallest[:, :-1] = 0
    slopes = torch.where(slopes < 0, slopes.minimum(-smallest), slopes.maximum(smallest))
    # No part of z may be longer than the radius.
    shift = (slopes.abs() / radius - gaps).amax(1, keepdim=True)
    for _ in range(_NEWTON_STEPS):
        distances = shift + gaps
        parts = slopes / distances
        length = torch.linalg.vector_norm(parts, dim=1, keepdim=True)
        steepness = (parts.square() / distances).sum(1, keepdim=True)
        shift = shift + length.square() * (length / radius - 1) / steepness
    parts = slopes / (shift + gaps)
    parts = parts * radius / torch.linalg.vector_norm(parts, dim=1, keepdim=True)
    weights: Tensor = (vectors * parts.unsqueeze(1)).sum(2)
    return weights
