from __future__ import annotations

import itertools
import math
from functools import reduce

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.kronecker import KroneckerLinear, Shapes, factor_shapes, nearest_factors


def dense(factors: list[Tensor]) -> np.ndarray:
    """The sum of products, by NumPy."""
    terms = zip(*(factor.detach().double().numpy() for factor in factors), strict=True)
    total: np.ndarray = sum(reduce(np.kron, term) for term in terms)
    return total


@pytest.mark.parametrize("shapes", [((4, 3), (2, 4)), ((1, 6), (8, 2)), ((2, 3), (2, 2), (2, 2))])
@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize("rows", [(12,), (5, 12), (2, 3, 12)])
def test_it_is_numpys_product(shapes: Shapes, terms: int, rows: tuple[int, ...]) -> None:
    """Outputs and full matrix, also for tokens."""
    layer = KroneckerLinear(nn.Linear(12, 8), shapes, terms)
    vectors = torch.randn(rows)
    matrix = dense([*layer.factors])
    assert layer.bias is not None
    expected = vectors.double().numpy() @ matrix.T + layer.bias.detach().double().numpy()
    np.testing.assert_allclose(layer(vectors).detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.weight.detach().numpy(), matrix, rtol=1e-5, atol=1e-5)


def test_two_factors_are_a_x_b() -> None:
    """On maps that are a matrix, as the paper has it."""
    layer = KroneckerLinear(nn.Linear(12, 8, bias=False), ((4, 3), (2, 4)), 1)
    left, right = (factor[0] for factor in layer.factors)
    maps = torch.randn(3, 4)
    torch.testing.assert_close(layer(maps.flatten()).view(4, 2), left @ maps @ right.T)


def test_with_all_terms_it_is_the_given_layer() -> None:
    """With two factors. Three of them are found one after the other, and a product of three is found again."""
    given = nn.Linear(12, 8)
    full = KroneckerLinear(given, ((4, 3), (2, 4)), 8)
    vectors = torch.randn(5, 12)
    torch.testing.assert_close(full(vectors), given(vectors), rtol=1e-5, atol=1e-5)
    parts = [torch.randn(1, *shape) for shape in ((2, 3), (2, 2), (2, 2))]
    product = torch.from_numpy(dense(parts)).float()
    again = nearest_factors(product, ((2, 3), (2, 2), (2, 2)), 1)
    np.testing.assert_allclose(dense(again), product.numpy(), rtol=1e-4, atol=1e-5)


def test_the_factors_are_the_nearest() -> None:
    """A search from several starts finds no sum of two products of the same norm that is nearer."""
    weight = torch.randn(6, 4, dtype=torch.float64)
    shapes = ((3, 2), (2, 2))
    factors = nearest_factors(weight, shapes, 2)
    assert np.linalg.norm(dense(factors)) == pytest.approx(float(weight.norm()))

    def distance(parts: list[Tensor]) -> Tensor:
        products = torch.stack([torch.kron(*pair) for pair in zip(*parts, strict=True)]).sum(0)
        return (products * (weight.norm() / products.norm()) - weight).norm()

    found = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        start = [torch.randn(2, *shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]
        optimizer = torch.optim.LBFGS(start, max_iter=200, line_search_fn="strong_wolfe")

        def closure(start: list[Tensor] = start, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            value = distance(start)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        found.append(distance(start).item())
    assert distance(factors).item() == pytest.approx(min(found), rel=1e-6)


@pytest.mark.parametrize(("outputs", "inputs"), [(12, 8), (10, 64), (7, 10)])
@pytest.mark.parametrize("compression", [1, 2, 4])
def test_the_shapes_are_the_best_within_the_budget(outputs: int, inputs: int, compression: float) -> None:
    """Of all shapes, tried one by one: the highest rank, then the most weights."""
    best, budget = (0, 0), 1.05 * outputs * inputs / compression
    for m, n in itertools.product(range(1, outputs + 1), range(1, inputs + 1)):
        rest = outputs // m, inputs // n
        if outputs % m or inputs % n or (m, n) == (1, 1) or rest == (1, 1) or m * n + math.prod(rest) > budget:
            continue
        rank = np.linalg.matrix_rank(np.kron(np.random.default_rng(0).random((m, n)), np.eye(*rest)))
        best = max(best, (int(rank), m * n + math.prod(rest)))
    shapes = factor_shapes(outputs, inputs, factors=2, terms=1, compression=compression)
    assert (math.prod(map(min, shapes)), sum(map(math.prod, shapes))) == best


def test_a_budget_that_is_out_of_reach() -> None:
    """The fewest weights are taken. A prime size leaves a factor 1 x 1, and too many terms are refused."""
    assert sum(map(math.prod, factor_shapes(8, 8, factors=2, terms=1, compression=100))) == 16
    assert factor_shapes(1, 7, factors=2, terms=1, compression=4) == ((1, 1), (1, 7))
    with pytest.raises(UserError, match="at most 8 independent products, not 9: give fewer terms"):
        factor_shapes(8, 8, factors=2, terms=9, compression=1)
