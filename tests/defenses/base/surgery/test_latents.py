from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.models.hidden_layer import HiddenLayer
from robustbench_cli.defenses.base.surgery.latents import Decoder, Encoder

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_latents_are_those_of_the_first_layers(network: Callable[[], nn.Module]) -> None:
    """They equal the pass through the layers before, also if the next layer writes into them."""
    model = network().eval()
    for index, (name, module) in enumerate(model.named_children()):
        before, after = model[:index](IMAGES), model[: index + 1](IMAGES)  # type: ignore[index]
        assert torch.equal(Encoder(model, HiddenLayer(name))(IMAGES), after.flatten(1))
        assert torch.equal(Encoder(model, HiddenLayer(name, before=True))(IMAGES), before.flatten(1))
        assert Encoder(model, HiddenLayer(name)).width(IMAGES[:1], name="layer") == after[0].numel()
        if isinstance(module, nn.ReLU):
            module.inplace = True
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (2, 1, 9)])
def test_decoded_images_have_the_shape(shape: tuple[int, int, int]) -> None:
    """Sizes that four does not divide too; the pixels are in [0, 1], and each latent has an image of its own."""
    decoder = Decoder(6, shape, width=4)
    latents = 100 * torch.randn(3, 6)
    images = decoder(latents)
    assert images.shape == (3, *shape)
    assert ((images >= 0) & (images <= 1)).all()
    torch.testing.assert_close(decoder(latents[1:2]), images[1:2])
    assert len(images.flatten(1).unique(dim=0)) == 3
