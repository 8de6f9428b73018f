"""A fully connected layer as a sum of Kronecker products of small matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, reduce

import torch
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError

__all__ = ["TOLERANCE", "KroneckerLinear", "Shapes", "factor_shapes", "nearest_factors"]

Shapes = tuple[tuple[int, int], ...]
"""The shapes ``(m_i, n_i)`` of the factors of a product."""

TOLERANCE = 0.05
"""The share by which the weights may be above the budget: 1/c of them needs a factor with c weights beside it."""


class KroneckerLinear(nn.Module):
    """A fully connected layer with the weights ``sum_r A_r1 kron ... kron A_rd``.

    It takes a vector as a tensor with d axes, of which the last runs fastest, and multiplies each axis by a factor. For two
    factors this is ``A X B^T``. The full matrix is never built. Its rank is the product of the factors' ranks.

    Args:
        layer: A fully connected layer. The factors begin as in :func:`nearest_factors`.
        shapes: The shapes of the factors.
        terms: The number of products.
    """

    def __init__(self, layer: nn.Linear, shapes: Shapes, terms: int) -> None:
        super().__init__()
        self.factors = nn.ParameterList(nearest_factors(layer.weight.detach(), shapes, terms))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The full matrix ``(m, n)``, for code that reads a layer's weights without calling the layer."""
        products = [reduce(torch.kron, term) for term in zip(*self.factors, strict=True)]
        return torch.stack(products).sum(0)

    def forward(self, rows: Tensor) -> Tensor:
        """The outputs ``(..., m)`` of vectors ``(..., n)``."""
        first, *middle, last = self.factors
        # Axes: row n, term r, finished output a, input of this factor k, its output b, input of later factors z.
        tensor = rows.reshape(-1, first.shape[2], rows.shape[-1] // first.shape[2])
        tensor = torch.einsum("nkz,rbk->nrbz", tensor, first)
        for factor in middle:
            split = tensor.unflatten(3, (factor.shape[2], -1))
            tensor = torch.einsum("nrakz,rbk->nrabz", split, factor).flatten(2, 3)
        outputs = torch.einsum("nrak,rbk->nab", tensor, last).reshape(*rows.shape[:-1], -1)
        return outputs if self.bias is None else outputs + self.bias


@cache
def factor_shapes(outputs: int, inputs: int, *, factors: int, terms: int, compression: float) -> Shapes:
    """The shapes of the factors of a layer's weights.

    Among the shapes within the budget those win that allow the highest rank, then those with the most weights, then those
    with the fewest multiplications. If none is within the budget, those with the fewest weights win.

    Args:
        outputs: m.
        inputs: n.
        factors: The number d of factors of a product.
        terms: The number of products.
        compression: How many times fewer weights than ``m n`` the factors have, at least; ``1 + TOLERANCE`` times the
            budget is allowed.

    Raises:
        UserError: There are more terms than independent products.

    >>> factor_shapes(64, 128, factors=2, terms=1, compression=2)
    ((1, 2), (64, 64))
    """
    possible = [
        tuple(zip(left, right, strict=True))
        for left in _factorizations(outputs, factors)
        for right in _factorizations(inputs, factors)
    ]
    # A factor 1 x 1 is none, and stays only where a size is prime.
    possible = [shapes for shapes in possible if (1, 1) not in shapes] or possible
    independent = {shapes: _independent(shapes) for shapes in possible}
    most = max(independent.values())
    if terms > most:
        raise UserError(f"it has at most {most} independent products, not {terms}: give fewer terms")
    possible = [shapes for shapes in possible if terms <= independent[shapes]]
    budget = (1 + TOLERANCE) * outputs * inputs / compression
    affordable = [shapes for shapes in possible if terms * _weights(shapes) <= budget]

    def merit(shapes: Shapes) -> tuple[int, int, int]:
        rank = min(terms * math.prod(min(shape) for shape in shapes), outputs, inputs)
        return rank, _weights(shapes), -_multiplications(shapes)

    return max(affordable, key=merit) if affordable else min(possible, key=_weights)


def _factorizations(number: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ordered ways to write a number as a product."""
    if parts == 1:
        yield (number,)
        return
    for divisor in range(1, number + 1):
        if number % divisor == 0:
            for rest in _factorizations(number // divisor, parts - 1):
                yield divisor, *rest


def _independent(shapes: Shapes) -> int:
    """The largest number of independent products: the largest rank of the rearranged matrix."""
    first = math.prod(shapes[0])
    return min(first, math.prod(map(math.prod, shapes[1:])))


def _weights(shapes: Shapes) -> int:
    """The weights of a product."""
    return sum(math.prod(shape) for shape in shapes)


def _multiplications(shapes: Shapes) -> int:
    """The multiplications of a product with a vector, one factor after the other."""
    done, left, count = 1, math.prod(inputs for _, inputs in shapes), 0
    for outputs, inputs in shapes:
        count += done * outputs * left
        done, left = done * outputs, left // inputs
    return count


def nearest_factors(weight: Tensor, shapes: Shapes, terms: int) -> list[Tensor]:
    """Factors whose sum of Kronecker products is near a matrix, and has its Frobenius norm.

    For two factors it is the nearest one of this norm, up to the error of ``torch.svd_lowrank``: the rearranged matrix,
    with a row for each element of the first factor, has the products as its singular pairs. A second factor that is a
    product itself is rearranged in turn.

    Source: Van Loan, Pitsianis: Approximation with Kronecker Products. In: Linear Algebra for Large Scale and Real-Time
    Applications, 1993.

    Args:
        weight: ``(m, n)``.
        shapes: The shapes ``(m_i, n_i)`` of the factors, whose products are m and n.
        terms: R.

    Returns:
        The factors ``(R, m_i, n_i)``.
    """
    factors: list[Tensor] = []
    rest = weight.unsqueeze(0)
    for outputs, inputs in shapes[:-1]:
        count = 1 if factors else terms
        blocks = rest.unflatten(1, (outputs, -1)).unflatten(3, (inputs, -1)).transpose(2, 3)
        rearranged = blocks.flatten(3).flatten(1, 2)
        left, sizes, right = torch.svd_lowrank(rearranged, q=min(count + 8, *rearranged.shape[1:]), niter=2)
        roots = sizes[:, None, :count].sqrt()
        factors.append((left[..., :count] * roots).mT.flatten(0, 1).unflatten(1, (outputs, inputs)))
        rest = (right[..., :count] * roots).mT.flatten(0, 1).unflatten(1, blocks.shape[3:])
    factors.append(rest)
    norm = _norm(factors)
    scale = (weight.norm() / norm) ** (1 / len(factors))
    return [factor * scale for factor in factors]


def _norm(factors: Sequence[Tensor]) -> Tensor:
    """The Frobenius norm of a sum of Kronecker products, whose scalar products are those of the factors, multiplied."""
    rows = [factor.flatten(1) for factor in factors]
    return torch.stack([row @ row.T for row in rows]).prod(0).sum().sqrt()
