from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from robustbench_cli.defenses.base.surgery.pruning import PrunedNetwork, holding_zeros, prunable_weights, smallest
from robustbench_cli.defenses.base.training.gradients import cross_entropy, gradients_of


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))


def test_the_smallest_weights_are_torchs() -> None:
    """Those that torch's global pruning by magnitude removes, where it leaves a weight of each layer."""
    model, theirs = network(), network()
    theirs.load_state_dict(model.state_dict())
    prune.global_unstructured(
        [(theirs[0], "weight"), (theirs[4], "weight")], pruning_method=prune.L1Unstructured, amount=40
    )
    made = PrunedNetwork(model)
    made.prune(40)
    assert torch.equal(model[0].weight, theirs[0].weight)
    assert torch.equal(model[4].weight, theirs[4].weight)


def test_no_layer_is_lost() -> None:
    """Equal magnitudes count exactly, and the largest weight of a layer stays, however small it is."""
    weights = [torch.full((3, 2), 1e-3), torch.full((5,), 2.0)]
    for count in range(1, 10):
        masks = smallest(weights, count)
        assert sum(int(mask.sum()) for mask in masks) == count
        assert not any(mask.all() for mask in masks)
        assert masks[0].sum() == min(count, 5)


def test_dual_ascent() -> None:
    """The multiplier grows by the mean magnitude, and the gradient of the penalty is its subgradient: the sign."""
    made = PrunedNetwork(network())
    magnitudes = np.sort(np.concatenate([w.detach().abs().numpy().ravel() for w in prunable_weights(made.network)]))
    made.begin_round(20, 0.5)
    made.begin_round(20, 0.5)
    assert made.multiplier is not None
    assert float(made.multiplier) == pytest.approx(magnitudes[:20].mean(), rel=1e-5)
    assert float(made.violation.detach()) == pytest.approx(magnitudes[:20].sum(), rel=1e-5)
    weights = prunable_weights(made.network)
    for weight, gradient in zip(weights, torch.autograd.grad(made.violation, weights), strict=True):
        expected = np.where(np.abs(weight.detach().numpy()) <= magnitudes[19], np.sign(weight.detach().numpy()), 0)
        np.testing.assert_array_equal(gradient.numpy(), expected)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_zeros_stay_zeros(kind: type[torch.optim.Optimizer]) -> None:
    """Whatever the optimizer; biases that begin at 0 are trained, and so are all other weights."""
    model = network()
    nn.init.zeros_(model[4].bias)
    made = PrunedNetwork(model)
    made.prune(60)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    options = {"momentum": 0.9, "nesterov": True} if kind is torch.optim.SGD else {}
    optimizer = kind(model.parameters(), lr=0.05, weight_decay=0.1, **options)
    gradients, parameters = holding_zeros(gradients_of(cross_entropy)), list(model.parameters())
    for _ in range(3):
        _, values = gradients(model, torch.rand(8, 1, 4, 4), torch.arange(8) % 4, parameters)
        for parameter, value in zip(parameters, values, strict=True):
            parameter.grad = value
        optimizer.step()
    weights = prunable_weights(model)
    for name, parameter in model.named_parameters():
        changed = parameter != before[name]
        stays = before[name] == 0 if parameter in set(weights) else torch.zeros_like(changed)
        assert not changed[stays].any()
        assert changed[~stays].float().mean() > 0.8


def test_only_the_network_is_left() -> None:
    """After its training, and in a new one that takes its state."""
    images = torch.rand(2, 1, 4, 4)
    made, loaded = PrunedNetwork(network()).eval(), PrunedNetwork(network()).eval()
    made.prune(30)
    assert made.teacher is not None
    assert not torch.equal(made.teacher(images), made(images))
    made.copy_to_teacher()
    assert torch.equal(made.teacher(images), made(images))
    made.finish()
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in network().parameters())
    loaded.resize(made.state_dict())
    loaded.load_state_dict(made.state_dict())
    assert torch.equal(loaded(images), made(images))
