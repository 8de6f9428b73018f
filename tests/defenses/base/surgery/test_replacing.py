from __future__ import annotations

from torch import nn

from robustbench_cli.defenses.base.surgery.replacing import replace_layers


def test_a_layer_that_runs_twice_stays_one() -> None:
    """It is built once, gets the mode of the layer, and the others stay."""
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared)).eval()
    layers = {name: layer for name, layer in model.named_modules(remove_duplicate=False) if layer is shared}
    changed = replace_layers(model, layers, lambda layer: nn.Bilinear(3, 3, len(layer.bias)))
    assert changed is model
    assert isinstance(model[0], nn.Bilinear)
    assert model[2][0] is model[0]
    assert not model[0].training
    assert isinstance(model[1], nn.ReLU)


def test_the_model_may_be_such_a_layer() -> None:
    layer = nn.Linear(3, 2)
    assert isinstance(replace_layers(layer, {"": layer}, lambda layer: nn.Identity()), nn.Identity)
