from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.hidden_h1 import HiddenH1
from robustbench_cli.core.errors import UserError

IMAGES = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
EPS = 0.05


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3)
    return nn.Sequential(*layers).eval().requires_grad_(False)


def queried(attack: HiddenH1, model: nn.Module, norm: Norm) -> list[Tensor]:
    """The images of each query of an attack that breaks none, and the last."""
    source = gradient_source(model, randomized=False)
    points: list[Tensor] = []
    source.watch = lambda images, _: points.append(images.clone())
    threat = Threat(norm=norm, eps=torch.full((5,), EPS, dtype=torch.float64))
    attack.run(source, IMAGES, model(IMAGES).argmax(1), threat, Random.of(0, IMAGES))
    return points


def iterates_by_hand(model: nn.Module, layer: str, start: Tensor, steps: int, norm: Norm) -> list[Tensor]:
    """The same search with a forward hook and autograd, image by image."""
    values: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: values.append(output))
    sequences = []
    for image, first in zip(IMAGES, start, strict=True):
        iterate, sequence = first, [first]
        for step in range(steps):
            leaf = iterate.clone().requires_grad_()
            model(image[None])
            model(leaf[None])
            (slope,) = torch.autograd.grad((values[-1] - values[-2]).square().sum().sqrt(), leaf)
            size = 2 * EPS * (1 - step / steps)
            change = iterate + size * (slope.sign() if norm == "linf" else slope / slope.norm()) - image
            change = change.clamp(-EPS, EPS) if norm == "linf" else change * min(1, EPS / float(change.norm()))
            iterate = (image + change).clamp(0, 1)
            sequence.append(iterate)
        sequences.append(torch.stack(sequence))
    handle.remove()
    return list(torch.stack(sequences, 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("layer", [None, "1"])
def test_the_iterates_are_those_of_a_search_by_hand(layer: str | None, norm: Norm) -> None:
    """At the default, which is the input of the last linear layer, and at another layer."""
    model = network()
    points = queried(HiddenH1(steps=6, layer=layer), model, norm)
    expected = iterates_by_hand(model, layer or "4", points[0], 6, norm)
    assert (points[0] != IMAGES).all()
    torch.testing.assert_close(points, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("tanh", r"^layer is 'tanh', no layer of the network: known: 0, 1, 2"),
        ("first", r"^layer is 'first', which gives a tuple: give a layer whose output is one tensor$"),
        ("joined", r"^layer is 'joined', which gives \(288,\) for 8 images: give a layer with a row per image$"),
    ],
)
def test_layers_without_a_representation(layer: str, message: str) -> None:
    """An unknown layer, one that gives several tensors, and one that joins the images are usage errors in one line."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.LSTM(6, 3, batch_first=True)
            self.joined = nn.Flatten(0)
            self.body = network()

        def forward(self, images: Tensor) -> Tensor:
            self.first(images[:, 0]), self.joined(images)
            logits: Tensor = self.body(images)
            return logits

    model = network() if layer == "tanh" else Odd()
    with pytest.raises(UserError, match=message):
        HiddenH1(layer=layer)(model, IMAGES, torch.zeros(5, dtype=torch.int64), eps=EPS)


def test_without_a_linear_layer_it_takes_the_logits() -> None:
    """Also where the layer does not have one row per image, as in a model that switches between heads."""

    class Switch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(36, 3), nn.Linear(36, 3)])

        def forward(self, images: Tensor) -> Tensor:
            features = images.flatten(1)
            return torch.cat([self.heads[0](features[::2]), self.heads[1](features[1::2])])

    attack, examples = HiddenH1(), IMAGES[:1].repeat(8, 1, 1, 1)
    assert attack._hidden_layer(Switch(), examples) is None
    assert attack._hidden_layer(nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten()), examples) is None
    layer = attack._hidden_layer(network(), examples)
    assert layer is not None
    assert (layer.name, layer.before) == ("5", True)
