from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base.build import normalized
from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.interval_bounds import require_boundable, worst_logits

SHAPE = (1, 2, 4)


def by_layers(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).double().eval()


def _normed() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, -1, 1)
    return by_layers(nn.Conv2d(1, 3, (1, 2)), norm, nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))


def _repeated(linear: nn.Module, activation: nn.Module) -> nn.Module:
    return by_layers(nn.Flatten(), *3 * (linear, activation), nn.Linear(8, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "fully connected": lambda: by_layers(nn.Flatten(), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3, bias=False)),
    "convolutions": lambda: by_layers(
        nn.Conv2d(1, 4, 2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 2, stride=2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 3),
    ),
    "strange padding": lambda: by_layers(
        nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(24, 3)
    ),
    "pools": lambda: by_layers(
        nn.Conv2d(1, 4, 1),
        nn.MaxPool2d((1, 2)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4, 3),
    ),
    "one layer in several places": lambda: _repeated(nn.Linear(8, 8), nn.ReLU()),
    "batch norm": _normed,
    "normalization": lambda: normalized(
        nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 3)), mean=0.3, std=0.2, channels=1
    ).double(),
}


def behind(logits: Tensor, labels: Tensor) -> Tensor:
    """The lead of each class over the label."""
    return logits - logits.gather(1, labels[:, None])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("eps", [0.0, 0.02, 0.3])
def test_all_images_of_the_ball_respect_the_bounds(name: str, eps: float) -> None:
    """The corners of the clipped ball and random points in it respect the bounds; at radius 0 all are equal."""
    model = NETWORKS[name]()
    images = torch.rand(4, *SHAPE, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1])
    worst = worst_logits(model, images, labels, eps)
    assert worst.shape == (4, 3)
    if not eps:
        torch.testing.assert_close(worst, behind(model(images), labels))
    corners = torch.tensor([*itertools.product((-1.0, 1.0), repeat=8)], dtype=torch.float64)
    moves = torch.cat([corners, 2 * torch.rand(2000, 8, dtype=torch.float64) - 1]).view(-1, *SHAPE)
    for number in range(4):
        rows = (images[number] + eps * moves).clamp(0, 1)
        result = behind(model(rows), labels[number].expand(len(rows))).amax(0)
        assert (result <= worst[number] + 1e-9).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_rounding_is_included(name: str) -> None:
    """The float32 error of a network is at most the bounds at radius 0, and these are tight."""
    model = NETWORKS[name]()
    with torch.no_grad():
        # Large terms cancel.
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layer.bias += 1000
    images, labels = torch.rand(400, *SHAPE), torch.randint(3, (400,))
    model.float()
    output = behind(model(images), labels).double()
    model.double()
    unit = torch.finfo(torch.float32).eps / 2
    exact, worst = (worst_logits(model, images.double(), labels, 0.0, unit_roundoff=rounded) for rounded in (0.0, unit))
    assert (output <= worst).all()
    assert (output > exact).any()
    assert (worst - exact).max() < 1000 * (output - exact).abs().max()


def test_a_linear_model_is_bounded_exactly() -> None:
    """Away from the edges of the box, the bound is the logit difference plus eps times the l1 norm of the weights'."""
    linear = nn.Linear(8, 4).double()
    images, labels = 0.4 + 0.2 * torch.rand(10, *SHAPE, dtype=torch.float64), torch.randint(4, (10,))
    eps = torch.rand(10, dtype=torch.float64) * 0.3
    worst = worst_logits(nn.Sequential(nn.Flatten(), linear), images, labels, eps)
    differences = linear.weight - linear.weight[labels].unsqueeze(1)
    expected = behind(linear(images.flatten(1)), labels) + eps[:, None] * differences.abs().sum(2)
    torch.testing.assert_close(worst, expected)


def test_one_unit_is_bounded_exactly() -> None:
    """If every path through ReLU has the same sign, a corner attains the bound."""
    model = by_layers(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        for layer in (model[1], model[3]):
            layer.weight.abs_()  # type: ignore[union-attr, operator]
        model[3].weight[0].zero_()  # type: ignore[union-attr, index]
    images, labels = torch.rand(6, *SHAPE, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    reached = behind(model((images + 0.1).clamp(0, 1)), labels)
    torch.testing.assert_close(worst_logits(model, images, labels, 0.1), reached)


class Residual(nn.Sequential):
    """A subclass of Sequential that is not sequential."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows + super().forward(rows)


class Falling(nn.ReLU):
    """A subclass of a monotone layer that is not monotone."""

    def forward(self, rows: Tensor) -> Tensor:
        return -super().forward(rows)


class Squared(nn.Linear):
    """A subclass of an affine layer that is not affine."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows).square()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), Residual(nn.Linear(8, 8)), nn.Linear(8, 2)), "its layer 1 is a Residual; "),
        (nn.Sequential(nn.Sequential(nn.Flatten(), nn.GELU())), "its layer 0.1 is a GELU; "),
        (nn.GELU(), "it is a GELU; "),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 8), Falling(), nn.Linear(8, 2)), "its layer 2 is a Falling; "),
        (nn.Sequential(nn.Flatten(), Squared(8, 2)), "its layer 1 is a Squared; "),
        (nn.Sequential(nn.Flatten(), nn.LeakyReLU(-0.5), nn.Linear(8, 2)), "its layer 1 is a LeakyReLU; "),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), "its layer 0 is a BatchNorm2d; "),
    ],
)
def test_what_cannot_be_bounded(model: nn.Module, message: str) -> None:
    """The usage error names the layer and the supported layers."""
    with pytest.raises(UserError) as caught:
        require_boundable(model)
    assert message in str(caught.value)
    assert "such as small-cnn" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_last_layer_is_fully_connected() -> None:
    """The last layer must make the logits."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 2), nn.ReLU())
    with pytest.raises(UserError, match="its last layer is a ReLU, and the last layer must be fully connected"):
        worst_logits(model, torch.rand(1, *SHAPE), torch.zeros(1).long(), 0.1)
    with pytest.raises(UserError, match="its last layer is a ReLU"):
        require_boundable(model)
    with pytest.raises(UserError, match="it has no layer"):
        require_boundable(nn.Sequential())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_that_a_hook_makes() -> None:
    """A hook computes the weights in the forward pass, so before it the bounds would be those of another model."""
    model = nn.Sequential(nn.Flatten(), torch.nn.utils.weight_norm(nn.Linear(16, 3)))
    with pytest.raises(UserError, match="its layer 1 has hooks"):
        require_boundable(model)


def test_the_projects_networks_can_be_bounded() -> None:
    """The networks of this project have only supported layers."""
    require_boundable(PaperCNN(shape=(1, 28, 28), classes=10))
