from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from scipy import stats
from torch import nn

from robustbench_cli.attacks.base.models.probes import is_randomized
from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.sap import SAP

ACTIVATIONS = torch.tensor([0.0, 0.5, 1.0, 2.5, 6.0]).view(1, 5, 1, 1)
SHARES = torch.tensor([0.0, 0.05, 0.1, 0.25, 0.6], dtype=torch.float64)


def pruned(rows: int, **parameters: Any) -> torch.Tensor:
    """What pruning makes of the same five activations in each of several rows: ``(rows, 5)``."""
    model = SAP(**parameters).protect(nn.ReLU(), ACTIVATIONS).eval()
    output: torch.Tensor = model(ACTIVATIONS.repeat(rows, 1, 1, 1)).flatten(1)
    return output


@pytest.mark.parametrize("ratio", [0.4, 1.0, 3.0])
def test_each_is_kept_as_often_as_draws_with_replacement_meet_it(ratio: float) -> None:
    """Counts fit ``1 - (1 - p)^r``, which torch's own multinomial draws confirm (exact tests, level 0.001)."""
    output = pruned(4000, ratio=ratio)
    draws = torch.multinomial(SHARES, 4000 * round(5 * ratio), replacement=True).view(4000, -1)
    for place, share in enumerate(SHARES.tolist()):
        kept = int((output[:, place] != 0).sum())
        chance = 1 - (1 - share) ** (5 * ratio)
        assert stats.binomtest(kept, 4000, chance).pvalue > 0.001
        met = int((draws == place).any(1).sum())
        assert stats.binomtest(met, 4000, chance).pvalue > 0.001


def test_the_mean_of_the_draws_is_the_activation() -> None:
    """What is kept is scaled up to the same mean, within 3.5 standard errors."""
    output = pruned(20000, ratio=0.6).double()
    error = output.std(0) / len(output) ** 0.5
    assert ((output.mean(0) - ACTIVATIONS.flatten()).abs() <= 3.5 * error).all()


def test_the_gradients_mean_is_that_of_the_dense_layer() -> None:
    """Over the draws, the slope of each activation in itself averages to 1, and in the others to 0."""
    model = SAP().protect(nn.ReLU(), ACTIVATIONS).eval()
    rows = ACTIVATIONS.repeat(20000, 1, 1, 1).requires_grad_()
    output = model(rows).flatten(1)
    for place in range(1, 5):
        slope = torch.autograd.grad(output[:, place].sum(), rows, retain_graph=True)[0].flatten(1).double()
        error = slope.std(0) / len(slope) ** 0.5
        assert ((slope.mean(0) - torch.eye(5)[place]).abs() <= 3.5 * error).all()


@pytest.mark.parametrize("ratio", [1.0, 1e-3])
def test_a_map_of_zeros_and_a_single_activation(ratio: float) -> None:
    """Nothing becomes of nothing, and what is alone is kept or scaled up, never lost to a division by zero."""
    assert not SAP(ratio=ratio).protect(nn.ReLU(), ACTIVATIONS)(torch.zeros(3, 5, 1, 1)).any()
    single = torch.zeros(3, 5, 1, 1)
    single[:, 2] = 1
    assert torch.equal(SAP(ratio=ratio).protect(nn.ReLU(), ACTIVATIONS)(single), single)


@pytest.mark.parametrize(
    ("model", "images"),
    [
        (PaperCNN(shape=(1, 28, 28), classes=10), torch.rand(4, 1, 28, 28)),
        (torchvision.models.resnet18(num_classes=10), torch.rand(4, 3, 32, 32)),
    ],
    ids=["paper-cnn", "resnet18"],
)
def test_enough_draws_keep_all(model: nn.Module, images: torch.Tensor) -> None:
    """With draws without number the model is the dense one bit for bit; with as many as activations it is randomized."""
    model.eval()
    assert torch.equal(SAP(ratio=1e30).protect(model, images[:1])(images), model(images))
    assert is_randomized(SAP().protect(model, images[:1]), images)


def test_more_draws_lose_fewer_digits(
    digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]
) -> None:
    """Accuracy grows with the ratio, towards that of the network as it was trained."""
    train, test = digits
    model = network()
    Trainer(train, Recipe(epochs=10), seed=0, device=torch.device("cpu")).fit(model, name="training")
    few, more, many = (
        accuracy(SAP(ratio=ratio).protect(model, train.images[:1]).eval(), test) for ratio in (0.1, 1.0, 20.0)
    )
    assert few < more < many <= accuracy(model, test) + 0.02


def test_bad_parameters() -> None:
    """No draws at all are refused."""
    with pytest.raises(UserError, match=r"sap.ratio is 0: input should be greater than 0"):
        SAP.from_parameters({"ratio": 0}, name="sap")
