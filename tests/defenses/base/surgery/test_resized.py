from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustbench_cli.defenses.base.surgery.resized import ResizedLayer, resize_layers


class Growing(ResizedLayer):
    """Has as many weights as a state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def resize(self, state: Mapping[str, Tensor]) -> None:
        self.weight = nn.Parameter(torch.zeros_like(state["weight"]))


def test_each_layer_sees_its_own_part() -> None:
    """At any depth, and where the model is such a layer itself."""
    state = {"0.weight": torch.rand(2), "1.inner.weight": torch.rand(3), "10.weight": torch.rand(4)}
    layers = {"0": Growing(), "1": nn.ModuleDict({"inner": Growing()}), "10": Growing()}
    model = nn.ModuleDict(layers)
    resize_layers(model, state)
    model.load_state_dict(state)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    alone = Growing()
    resize_layers(alone, {"weight": torch.zeros(5)})
    assert len(alone.weight) == 5
