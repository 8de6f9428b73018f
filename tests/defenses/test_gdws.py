from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional
from torchvision.models import resnet18

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.base.surgery.depthwise import DepthwiseSeparable
from robustbench_cli.defenses.gdws import GDWS, channel_weights, fewest_pairs, most_important_pairs
from robustbench_cli.defenses.pni import PNI


def convolution(seed: int = 0) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Conv2d(2, 3, 2)


def separable(layer: nn.Conv2d, ranks: tuple[int, ...], importance: Tensor) -> tuple[Tensor, float]:
    """The best weights of given ranks, and their weighted squared error, from torch's own decomposition of each channel."""
    error, found = 0.0, layer.weight.detach().clone()
    for channel, rank in enumerate(ranks):
        matrix = layer.weight.detach()[:, channel].flatten(1)
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        near = left[:, :rank] * sizes[:rank] @ right[:rank]
        found[:, channel] = near.view_as(found[:, channel])
        error += float(importance[channel] * (matrix - near).square().sum())
    return found, error


@pytest.mark.parametrize("seed", range(3))
def test_lego_and_mego_are_the_best_of_all_ranks(seed: int) -> None:
    """Of the 16 choices of ranks for two channels: the fewest pairs within an error, and the least error for a number of pairs."""
    layer = convolution(seed)
    importance = torch.rand(2, generator=torch.Generator().manual_seed(seed)) + 0.1
    choices = {ranks: separable(layer, ranks, importance)[1] for ranks in itertools.product(range(4), repeat=2)}
    made = DepthwiseSeparable(layer)
    errors = importance[made.channels] * made.errors()
    for count in range(1, 7):
        kept = most_important_pairs(errors, count)
        assert float(errors.sum() - errors[kept].sum()) == pytest.approx(
            min(error for ranks, error in choices.items() if sum(ranks) == count), abs=1e-6
        )
    for largest in torch.linspace(0.01, 1, 20).tolist():
        allowed = largest * choices[0, 0]
        fewest = min(sum(ranks) for ranks, error in choices.items() if error <= allowed)
        assert len(fewest_pairs(errors, allowed)) == max(fewest, 1)


def test_the_error_is_that_of_the_weights() -> None:
    """The convolution that is left has the weights of the best ranks."""
    layer = convolution()
    made = DepthwiseSeparable(layer)
    kept = most_important_pairs(made.errors(), 3)
    ranks = tuple(torch.bincount(made.channels[kept], minlength=2).tolist())
    made.keep(kept)
    torch.testing.assert_close(made.convolution().weight, separable(layer, ranks, torch.ones(2))[0])


def test_the_weights_of_channels_are_those_of_the_paper() -> None:
    """The formula, from the whole Jacobian of the logits by the layer's weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), convolution(), nn.Flatten(), nn.Linear(48, 5))
    image = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    layer = model[2]
    assert isinstance(layer, nn.Conv2d)
    jacobian = jacrev(lambda weight: functional_call(model, {"2.weight": weight}, (image,))[0])(
        layer.weight.detach()
    ).detach()
    logits = model(image)[0].detach()
    top = int(logits.argmax())
    expected = [
        sum(
            float((jacobian[top, :, channel] - jacobian[j, :, channel]).square().sum())
            / (2 * float(logits[top] - logits[j]) ** 2 * 3 * 4)
            for j in range(5)
            if j != top
        )
        for channel in range(2)
    ]
    (found,) = channel_weights(model.eval().requires_grad_(False), [layer], image)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_trained_network_gets_cheaper(digits: Any, network: Callable[[], nn.Module]) -> None:
    """By half of the operations of its later convolutions, and it stays near its logits at a small error."""
    train, test = digits
    model = network().eval()
    half, near = (defend(model, defense, train) for defense in (GDWS(macs=0.5, samples=5), GDWS(error=0.01, samples=0)))
    layers = [module for module in half.modules() if isinstance(module, DepthwiseSeparable)]
    assert len(layers) == 2
    for layer in layers:
        cost, dense = len(layer.channels) * (9 + layer.outputs), layer.convolution().weight.numel()
        assert 0.45 * dense < cost <= 0.5 * dense
    images = test.images[:50]
    with torch.no_grad():
        change = (near(images) - model(images)).norm() / model(images).norm()
    assert float(change) < 0.05


def test_a_residual_network_keeps_its_logits() -> None:
    """All but its first and its 1 x 1 convolutions are replaced."""
    model = resnet18(num_classes=4).eval()
    protected = GDWS().protect(model, torch.zeros(1, 3, 32, 32)).eval()
    assert sum(isinstance(module, DepthwiseSeparable) for module in protected.modules()) == 16
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(protected(images), model(images), rtol=1e-3, atol=1e-3)


class Padded(nn.Conv2d):
    """A convolution that pads its input itself, as some of timm do."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(functional.pad(maps, (0, 1, 0, 1)))


def test_convolutions_that_compute_something_else_stay() -> None:
    """Those of a subclass, and those whose weights are drawn."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), Padded(4, 4, 2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    images = torch.rand(2, 1, 8, 8)
    protected = GDWS().protect(model, images)
    assert [type(layer) for layer in protected[:3]] == [nn.Conv2d, Padded, DepthwiseSeparable]
    torch.testing.assert_close(protected(images), model(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="without groups and random weights"):
        GDWS().protect(PNI().protect(model, images), images)


def test_a_layer_that_runs_twice_stays_one_layer(digits: Any) -> None:
    train, _ = digits
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(144, 10))
    made = defend(model, GDWS(macs=0.9, samples=3), train)
    assert made[1] is made[3]
    assert isinstance(made[1], DepthwiseSeparable)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(UserError, match="error and macs exclude each other"):
        GDWS.from_parameters({"error": 0.1, "macs": 0.5}, name="gdws")
    grouped = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 2, 1))
    with pytest.raises(UserError, match="gdws replaces convolutions that are larger than 1 x 1, without groups"):
        GDWS().protect(grouped, torch.zeros(1, 2, 9, 9))
