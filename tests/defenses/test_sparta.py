from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.sparta import Gate, Sparta

CPU = torch.device("cpu")
EXAMPLE = torch.zeros(1, 1, 8, 8)


def convolutional(*widths: int) -> nn.Module:
    """Convolutions with a ReLU each, and a ReLU behind a fully connected layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((1, *widths), widths, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * widths[-1], 16), nn.ReLU(), nn.Linear(16, 10))


def gates_of(model: nn.Module) -> list[Gate]:
    return [module for module in model.modules() if isinstance(module, Gate)]


def test_a_gate_sees_the_neighborhood_in_its_own_channel() -> None:
    """Each output, by hand from the zero-padded neighborhood of its pixel."""
    gate, features = Gate(2, 3), torch.randn(1, 2, 4, 4)
    nn.init.normal_(gate.convolution.weight)
    nn.init.normal_(gate.convolution.get_parameter("bias"))
    outputs, padded = gate(features), functional.pad(features, (1, 1, 1, 1))
    for channel in range(2):
        for row in range(4):
            for column in range(4):
                around = padded[0, channel, row : row + 3, column : column + 3]
                score = (around * gate.convolution.weight[channel, 0]).sum() + gate.convolution.get_parameter("bias")[
                    channel
                ]
                expected = features[0, channel, row, column] / (1 + (-score).exp())
                torch.testing.assert_close(outputs[0, channel, row, column], expected)


def test_a_gate_that_sees_one_pixel_is_swish_and_at_a_steep_slope_relu() -> None:
    features = torch.randn(2, 3, 5, 5)
    gate = Gate(3, 1)
    torch.testing.assert_close(gate(features), functional.silu(3 * features) / 3)
    nn.init.constant_(gate.convolution.weight, 1e6)
    torch.testing.assert_close(gate(features), features.relu())


def test_every_relu_on_feature_maps_has_a_gate() -> None:
    """The one behind the fully connected layer stays: in its place a model of steep gates computes what it did before."""
    model = convolutional(4, 6)
    protected = Sparta(kernel=1).protect(model, EXAMPLE)
    assert [gate.convolution.in_channels for gate in gates_of(protected)] == [4, 6]
    for gate in gates_of(protected):
        nn.init.constant_(gate.convolution.weight, 1e6)
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(protected(images), model(images))


def test_given_gates_stay_and_the_rest_learns(digits: Any) -> None:
    """The gates of one network serve another one; a checkpoint needs the network that had them no more."""
    learned = Sparta().protect(convolutional(4, 4, 6), EXAMPLE)
    for gate in gates_of(learned):
        nn.init.normal_(gate.convolution.weight)
    defense = Sparta(eps=0.1, steps=1, gates=learned)
    model = defense.protect(convolutional(4, 6), EXAMPLE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    defense.fit(model, Trainer(digits[0], Recipe(epochs=1), seed=0, device=CPU))
    for gate, source in zip(gates_of(model), (gates_of(learned)[0], gates_of(learned)[2]), strict=True):
        assert torch.equal(gate.convolution.weight, source.convolution.weight)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if not name.startswith("replacements.")}

    again = Sparta.from_parameters({"gates": "gone.safetensors"}, name="sparta")
    built = again.protect(convolutional(4, 6), EXAMPLE)
    built.load_state_dict(model.state_dict())
    images: Tensor = digits[1].images[:5]
    torch.testing.assert_close(built.eval()(images), model.eval()(images))
    with pytest.raises(UserError, match=r"^gates is the file gone.safetensors: give its model"):
        again.fit(built, Trainer(digits[0], Recipe(), seed=0, device=CPU))


@pytest.mark.parametrize(
    ("theirs", "ours", "taken"),
    [
        ((4, 4, 4, 6), (4, 4, 4, 6), [0, 1, 2, 3]),
        ((4, 4, 4), (4, 4), [0, 2]),
        ((4, 6), (4, 4, 6, 6), [0, 0, 1, 1]),
        ((6, 4, 6, 6), (6,), [0]),
        ((4, 4), (4, 4, 4, 4), [0, 0, 1, 1]),
    ],
)
def test_gates_are_matched_by_their_relative_position(
    theirs: tuple[int, ...], ours: tuple[int, ...], taken: list[int]
) -> None:
    """Among those with as many channels: of 16 gates with 64 channels, the eighth of 8 gets the last."""
    learned = Sparta().protect(convolutional(*theirs), EXAMPLE)
    for number, gate in enumerate(gates_of(learned)):
        nn.init.constant_(gate.convolution.weight, number)
    protected = Sparta(gates=learned).protect(convolutional(*ours), EXAMPLE)
    assert [int(gate.convolution.weight[0, 0, 0, 0]) for gate in gates_of(protected)] == taken


@pytest.mark.parametrize(
    ("defense", "message"),
    [
        (lambda: Sparta(gates=convolutional(4)), "sparta.gates is a model without sparta: give a checkpoint"),
        (
            lambda: Sparta(gates=Sparta().protect(convolutional(5, 6), EXAMPLE)),
            "sparta.gates has no gate for 4 channels: it has them for 5, 6",
        ),
        (
            lambda: Sparta(gates=Sparta(kernel=5).protect(convolutional(4), EXAMPLE)),
            "sparta.gates has kernels of 5 x 5: give sparta.kernel=5",
        ),
    ],
)
def test_gates_that_do_not_fit(defense: Callable[[], Sparta], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        defense().protect(convolutional(4), EXAMPLE)


def test_what_cannot_be_replaced() -> None:
    """A network without ReLU on feature maps, and kernels without a center."""
    silu = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 10))
    with pytest.raises(UserError, match=r"^sparta replaces ReLU behind convolutions, and Sequential has none"):
        Sparta().protect(silu, EXAMPLE)
    with pytest.raises(UserError, match=r"^sparta.kernel is 4: give an odd number"):
        Sparta.from_parameters({"kernel": 4}, name="sparta")
