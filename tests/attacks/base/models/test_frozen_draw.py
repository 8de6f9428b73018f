from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.frozen_draw import FrozenDraw
from robustbench_cli.core.errors import UserError

IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class NoiseLayer(nn.Module):
    """Adds normal noise to the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return (images + torch.randn_like(images)).flatten(1)


def test_the_draw_is_that_of_one_image_alone() -> None:
    """The noise of every row, in any batch, is what torch draws for a batch of one with this seed."""
    model = FrozenDraw(NoiseLayer(), seed=5)
    noise = torch.randn(1, 16, generator=torch.Generator().manual_seed(5))
    state = torch.get_rng_state()
    for rows in (IMAGES, IMAGES[1:], IMAGES.flip(0)):
        torch.testing.assert_close(model(rows), rows.flatten(1) + noise)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(FrozenDraw(NoiseLayer(), seed=6)(IMAGES), model(IMAGES))


def test_what_cannot_draw_once_is_told_in_one_line() -> None:
    """A model that leaves torch, as a codec does, has operations that vmap cannot run."""

    class Codec(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.from_numpy(images.numpy()).flatten(1)

    with pytest.raises(UserError, match=r"^one frozen draw needs a model that torch.func.vmap can run.*RuntimeError"):
        FrozenDraw(Codec(), seed=0)(IMAGES)
