from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.depthwise import DepthwiseSeparable


def convolution(*, seed: int = 0, **options: Any) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Conv2d(2, 3, 2, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1, "bias": False},
        {"dilation": 2, "padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
def test_with_all_pairs_it_is_the_convolution(options: dict[str, Any]) -> None:
    """Before and after the way through a state dict."""
    layer, images = convolution(**options), torch.rand(4, 2, 7, 6)
    exact = DepthwiseSeparable(layer)
    torch.testing.assert_close(exact(images), layer(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exact.convolution()(images), layer(images), rtol=1e-5, atol=1e-5)
    exact.keep(torch.tensor([0, 4]))
    loaded = DepthwiseSeparable(convolution(seed=1, **options))
    loaded.resize(exact.state_dict())
    loaded.load_state_dict(exact.state_dict())
    assert torch.equal(loaded(images), exact(images))


@pytest.mark.parametrize("channels", [[0, 2], [-1], [], [0] * 7])
def test_a_damaged_file_is_refused(channels: list[int]) -> None:
    layer = DepthwiseSeparable(convolution())
    state = layer.state_dict() | {"channels": torch.tensor(channels, dtype=torch.int64)}
    with pytest.raises(UserError, match=r"^channels has to be 1 to 6 integers from 0 to 1$"):
        layer.resize(state)
