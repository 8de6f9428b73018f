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
    """The pruned activations ``(rows, 5)`` of equal rows with five activations."""
    model = SAP(**parameters).protect(nn.ReLU(), ACTIVATIONS).eval()
    output: torch.Tensor = model(ACTIVATIONS.repeat(rows, 1, 1, 1)).flatten(1)
    return output


@pytest.mark.parametrize("ratio", [0.4, 1.0, 3.0])
def test_survival_rates(ratio: float) -> None:
    """Survival rates are ``1 - (1 - p)^r``, also those of torch's multinomial draws (exact tests, level 0.001)."""
    output = pruned(4000, ratio=ratio)
    draws = torch.multinomial(SHARES, 4000 * round(5 * ratio), replacement=True).view(4000, -1)
    for place, share in enumerate(SHARES.tolist()):
        kept = int((output[:, place] != 0).sum())
        chance = 1 - (1 - share) ** (5 * ratio)
        assert stats.binomtest(kept, 4000, chance).pvalue > 0.001
        met = int((draws == place).any(1).sum())
        assert stats.binomtest(met, 4000, chance).pvalue > 0.001


def test_the_mean_of_the_draws_is_the_activation() -> None:
    """The mean over draws is the activation, within 3.5 standard errors."""
    output = pruned(20000, ratio=0.6).double()
    error = output.std(0) / len(output) ** 0.5
    assert ((output.mean(0) - ACTIVATIONS.flatten()).abs() <= 3.5 * error).all()


def test_the_gradients_mean_is_that_of_the_dense_layer() -> None:
    """Over the draws, the mean Jacobian is the identity."""
    model = SAP().protect(nn.ReLU(), ACTIVATIONS).eval()
    rows = ACTIVATIONS.repeat(20000, 1, 1, 1).requires_grad_()
    output = model(rows).flatten(1)
    for place in range(1, 5):
        slope = torch.autograd.grad(output[:, place].sum(), rows, retain_graph=True)[0].flatten(1).double()
        error = slope.std(0) / len(slope) ** 0.5
        assert ((slope.mean(0) - torch.eye(5)[place]).abs() <= 3.5 * error).all()


@pytest.mark.parametrize("ratio", [1.0, 1e-3])
def test_a_map_of_zeros_and_a_single_activation(ratio: float) -> None:
    """Zeros stay zeros, and a single activation always survives, without a division by zero."""
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
    """With very many draws the logits equal the model's exactly; with one per activation it is randomized."""
    model.eval()
    assert torch.equal(SAP(ratio=1e30).protect(model, images[:1])(images), model(images))
    assert is_randomized(SAP().protect(model, images[:1]), images)


def test_more_draws_lose_fewer_digits(
    digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]
) -> None:
    """Accuracy grows with the ratio, towards that of the network without pruning."""
    train, test = digits
    model = network()
    Trainer(train, Recipe(epochs=10), seed=0, device=torch.device("cpu")).fit(model, name="training")
    few, more, many = (
        accuracy(SAP(ratio=ratio).protect(model, train.images[:1]).eval(), test) for ratio in (0.1, 1.0, 20.0)
    )
    assert few < more < many <= accuracy(model, test) + 0.02


def test_bad_parameters() -> None:
    """A ratio of 0 is a usage error."""
    with pytest.raises(UserError, match=r"sap.ratio is 0: input should be greater than 0"):
        SAP.from_parameters({"ratio": 0}, name="sap")
