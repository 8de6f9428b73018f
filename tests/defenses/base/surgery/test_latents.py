from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.latents import Decoder, Encoder, last_linear

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_latents_are_those_of_the_first_layers(network: Callable[[], nn.Module]) -> None:
    """They equal the pass through the layers before, also if the next layer writes into them."""
    model = network().eval()
    for index, (name, module) in enumerate(model.named_children()):
        before, after = model[:index](IMAGES), model[: index + 1](IMAGES)  # type: ignore[index]
        assert torch.equal(Encoder(model, name)(IMAGES), after.flatten(1))
        assert torch.equal(Encoder(model, name, before=True)(IMAGES), before.flatten(1))
        assert Encoder(model, name).width(IMAGES[:1], name="layer") == after[0].numel()
        if isinstance(module, nn.ReLU):
            module.inplace = True
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class _Classes(nn.Module):
    """Whole numbers for each image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).argmax(1, keepdim=True)


class Odd(nn.Module):
    """A network with layers that have no latent."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 3, batch_first=True)
        self.unused = nn.Linear(2, 2)
        self.mean = nn.Flatten(0)
        self.classes = _Classes()
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        self.mean(images)
        self.classes(images)
        logits: Tensor = self.head(self.recurrent(images[:, 0])[0][:, -1])
        return logits


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("recurent", r"^x\.layer is 'recurent', no layer of the network: did you mean 'recurrent'"),
        ("recurrent", r"^x\.layer is 'recurrent', which gives a tuple: give a layer whose output is one tensor$"),
        ("unused", r"^x\.layer is 'unused', which the forward pass does not run: give a layer that it runs$"),
        ("mean", r"^x\.layer is 'mean', which gives \(192,\) for 3 images: give a layer with a row per image$"),
        (
            "classes",
            r"^x\.layer is 'classes', which gives torch\.int64: give a layer whose output has floating-point numbers$",
        ),
    ],
)
def test_layers_without_a_latent(layer: str, message: str) -> None:
    """An unknown layer, one that gives several tensors, one that does not run, one that joins the images, one of whole numbers."""
    with pytest.raises(UserError, match=message):
        Encoder(Odd(), layer).width(IMAGES[:1], name="x.layer")


def test_the_last_linear_layer(network: Callable[[], nn.Module]) -> None:
    """It is the classifier of known networks, and ``None`` without a linear layer."""
    assert last_linear(network(), IMAGES[:1]) == "fc2"
    resnet = torchvision.models.get_model("resnet18", weights=None, num_classes=3)
    assert last_linear(resnet, torch.rand(1, 3, 32, 32)) == "fc"
    assert last_linear(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), IMAGES[:1]) is None
    assert resnet.training


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
