"""Certificates of a model in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.benchmarks.interface.certify import certify
from robustbench_cli.core.errors import UserError


@pytest.fixture(scope="module")
def linear() -> nn.Module:
    """Two classes; the margin over the dual norm of the weights is the exact distance."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    return model


PIXELS = torch.full((3, 1, 2, 2), 0.5) + torch.tensor([0.2, -0.01, 0.0, 0.1]).reshape(1, 1, 2, 2) * torch.tensor(
    [1.0, 0.3, 2.0]
).reshape(3, 1, 1, 1)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 3.5), ("l2", (1 + 4 + 0.25) ** 0.5)])
def test_the_certificates_of_a_linear_model_are_exact(linear: nn.Module, norm: Any, dual: float) -> None:
    """The radius that is certified is the largest of those that are below the distance."""
    margin = linear(PIXELS)[:, 0].detach().numpy()
    labels = np.where(margin > 0, 0, 1)
    distances = np.abs(margin) / dual
    radii = [0.5 * float(distances.min()), float(np.median(distances)) * 0.999, 2 * float(distances.max())]
    done: list[int] = []
    result = certify(linear, PIXELS.numpy(), labels, radii, done.append, norm=norm, method="linear")
    expected = [float((distances >= radius).mean()) for radius in radii]
    assert list(result.table["certified_accuracy"]) == pytest.approx(expected)
    assert (result.to_frame()["radius"].to_numpy() <= distances + 1e-9).all()
    assert done[-1] == 3
    assert "certified by linear" in repr(result)
    assert linear.training


def test_a_smoothed_model_is_certified_in_l2(linear: nn.Module) -> None:
    """The vote of a linear model has its margin's distance, which no certificate exceeds."""
    distances = linear(PIXELS)[:, 0].abs().detach().numpy() / (1 + 4 + 0.25) ** 0.5
    labels = (linear(PIXELS)[:, 0] < 0).long()
    result = certify(linear, PIXELS, labels, "1/1000", lambda _: None, sigma=0.25, n0=20, samples=500)
    frame = result.to_frame()
    assert (frame["radius"] <= distances + 1e-9).all()
    assert result.table["norm"].tolist() == ["l2"]
    assert result.table["sigma"].tolist() == [0.25]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n0": 3}, "n0 is for a smoothed model: give sigma too"),
        ({"sigma": 0.1, "norm": "l2"}, "norm is for a certificate of the model itself"),
        ({"mehtod": "linear"}, "certify has no parameter 'mehtod': did you mean 'method'"),
        ({"method": "lin"}, "no method 'lin': did you mean 'linear'"),
        ({"norm": "l0"}, "certify does not know the norm l0"),
        ({"sigma": 0.1, "samples": 5, "alpha": 2}, "alpha is 2"),
    ],
)
def test_mistakes_have_a_line(linear: nn.Module, options: dict[str, Any], message: str) -> None:
    """An option that does not fit is no silent default."""
    with pytest.raises(UserError, match=message):
        certify(linear, PIXELS, [0, 0, 0], 0.1, lambda _: None, **options)
