from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.tucker import TuckerConvolution, mode_bases, truncated


def convolution(**options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 6, 3, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1, "bias": False},
        {"dilation": 2, "padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
def test_three_convolutions_have_the_weights_of_one(options: dict[str, Any]) -> None:
    """At full rank those of the given convolution, at a lower one those of the product; also through a state dict."""
    given, maps = convolution(**options), torch.rand(2, 4, 7, 6)
    full = TuckerConvolution(given)
    assert torch.equal(full(maps), given(maps))
    full.compress((6, 4))
    torch.testing.assert_close(full(maps), given(maps), rtol=1e-5, atol=1e-5)
    low = TuckerConvolution(given)
    low.compress((3, 2))
    with torch.no_grad():
        left, core, right = truncated(given.weight, (3, 2))
        given.weight.copy_(torch.einsum("or,rskl,is->oikl", left, core, right))
    torch.testing.assert_close(low(maps), given(maps), rtol=1e-5, atol=1e-5)
    loaded = TuckerConvolution(convolution(**options))
    loaded.resize(low.state_dict())
    loaded.load_state_dict(low.state_dict())
    assert torch.equal(loaded(maps), low(maps))


def test_the_decomposition_is_numpys() -> None:
    """Singular values of the unfoldings; and the error is at most what they leave out, and at least the larger part."""
    weight = torch.randn(6, 4, 3, 3)
    unfoldings = weight.flatten(1).numpy(), weight.transpose(0, 1).flatten(1).numpy()
    parts = []
    for (values, _), unfolded, rank in zip(mode_bases(weight), unfoldings, (3, 2), strict=True):
        expected = np.linalg.svd(unfolded, compute_uv=False) ** 2
        np.testing.assert_allclose(values.numpy(), expected, rtol=1e-4)
        parts.append(expected[rank:].sum())
    left, core, right = truncated(weight, (3, 2))
    error = float((torch.einsum("or,rskl,is->oikl", left, core, right) - weight).square().sum())
    assert max(parts) - 1e-4 <= error <= sum(parts) + 1e-4
    torch.testing.assert_close(left.T @ left, torch.eye(3), rtol=0, atol=1e-5)


def test_admm_reaches_weights_of_low_rank() -> None:
    """On a quadratic loss, ADMM ends where its target is: a stationary point with the target's rank."""
    given = convolution(bias=False)
    wanted = given.weight.detach().clone()
    layer = TuckerConvolution(given)
    assert layer.dense is not None
    distances = []
    for _ in range(40):
        layer.project((2, 2))
        assert layer.target is not None
        assert layer.dual is not None
        # The minimum of ||W - wanted||^2 + 2 ||W - target + dual||^2.
        with torch.no_grad():
            layer.dense.weight.copy_((wanted + 2 * (layer.target - layer.dual)) / 3)
        distances.append(float((layer.dense.weight - layer.target).detach().norm()))
    assert distances[-1] < 0.01 * distances[0]
    assert np.linalg.matrix_rank(layer.dense.weight.detach().flatten(1).numpy(), tol=0.05) == 2
    residual = (layer.dense.weight - layer.target + layer.dual).detach()
    assert layer.penalty.item() == pytest.approx(float(residual.norm()) ** 2, rel=1e-5)


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (7, 2, 3, 3), (2, 5, 3, 3), (2, 2, 1, 1), (2, 2)])
def test_a_damaged_file_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"the core is to have a shape of at most \(6, 4, 3, 3\), not"):
        TuckerConvolution(convolution()).resize({"layers.1.weight": torch.zeros(shape)})
